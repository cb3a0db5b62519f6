"""Restrict the system calls of this process to an allowlist: seccomp(2), with a filter in classic BPF.

The allowlist has what a process with one thread needs to read and write files that it may open: no sockets, no other
processes or threads, no signals to others, no changes of names, permissions and mounts. Other calls fail with ENOSYS,
as in an older kernel, so that libraries fall back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from processor.system.linux import IS_LINUX, prctl

#: Name, number on x86_64, number on aarch64; "-": the architecture does not have it.
_ALLOWED = (
    # files
    "read:0:63 readv:19:65 pread64:17:67 preadv:295:69 preadv2:327:286 write:1:64 writev:20:66 pwrite64:18:68 "
    "pwritev:296:70 pwritev2:328:287 open:2:- openat:257:56 close:3:57 close_range:436:436 lseek:8:62 stat:4:- "
    "fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291 access:21:- faccessat:269:48 faccessat2:439:439 "
    "readlink:89:- readlinkat:267:78 getdents:78:- getdents64:217:61 getcwd:79:17 fcntl:72:25 flock:73:32 "
    "fsync:74:82 fdatasync:75:83 ftruncate:77:46 fallocate:285:47 fadvise64:221:223 unlink:87:- unlinkat:263:35 "
    "dup:32:23 dup2:33:- dup3:292:24 ioctl:16:29 "
    # waiting
    "poll:7:- ppoll:271:73 select:23:- pselect6:270:72 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- "
    "epoll_pwait:281:22 nanosleep:35:101 clock_nanosleep:230:115 sched_yield:24:124 restart_syscall:219:128 "
    # memory
    "brk:12:214 mmap:9:222 munmap:11:215 mremap:25:216 mprotect:10:226 madvise:28:233 msync:26:227 mlock:149:228 "
    "munlock:150:229 membarrier:324:283 "
    # time, and properties of the process itself
    "clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153 getrusage:98:165 "
    "getrandom:318:278 sysinfo:99:179 uname:63:160 getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174 "
    "geteuid:107:175 getgid:104:176 getegid:108:177 getpgid:121:155 getpgrp:111:- getsid:124:156 "
    "sched_getaffinity:204:123 getcpu:309:168 getrlimit:97:163 setrlimit:160:164 arch_prctl:158:- prctl:157:167 "
    "exit:60:93 exit_group:231:94 "
    # signals and locks
    "rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 "
    "rt_sigsuspend:130:133 sigaltstack:131:132 getitimer:36:102 setitimer:38:103 futex:202:98 "
    "set_robust_list:273:99 get_robust_list:274:100 set_tid_address:218:96 rseq:334:293"
)
#: Calls that are allowed if their first argument is this process, or 0, which stands for it.
_FOR_ITSELF = "prlimit64:302:261 tgkill:234:131"
#: The column of the numbers, and the architecture's identification in linux/audit.h.
_MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}

#: linux/filter.h: load a word, jump if equal, return.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
#: linux/seccomp.h: the offsets in ``struct seccomp_data``, and the actions.
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_SET_SECCOMP, _MODE_FILTER = 22, 2


def restrict_system_calls() -> bool:
    """Restrict this process for good; it must have ``no_new_privs``. Return False on other systems and architectures.

    Raises OSError if the kernel refuses.
    """
    if not IS_LINUX or platform.machine() not in _MACHINES:
        return False
    instructions = _filter(*_MACHINES[platform.machine()], os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code))
    prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.c_char_p(program))
    return True


def _filter(column: int, architecture: int, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the instructions: the operation, the instructions to skip if true and if false, and the operand."""
    instructions = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number in _numbers(_ALLOWED, column):
        instructions += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in _numbers(_FOR_ITSELF, column):
        instructions += [
            (_JUMP_IF_EQUAL, 0, 5, number),
            (_LOAD, 0, 0, _ARGUMENT),  # the low half, which is all that the kernel takes a process id from
            (_JUMP_IF_EQUAL, 2, 0, 0),
            (_JUMP_IF_EQUAL, 1, 0, pid),
            (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [*instructions, (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]


def _numbers(calls: str, column: int) -> list[int]:
    numbers = (call.split(":")[column] for call in calls.split())
    return [int(number) for number in numbers if number != "-"]
