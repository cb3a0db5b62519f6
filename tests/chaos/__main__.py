"""``python -m tests.chaos --seed N --minutes M``: injects faults for M minutes under load, then audits the run.

The exit status is 0 if the audit passes, 1 if it fails, 2 if the run could not be started.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from devstack.errors import DevstackError
from devstack.stack import LOCAL
from devstack.tools.cache import tools_folder
from tests.chaos.audit.audit import problems
from tests.chaos.audit.ledger import Command, Entry, Ledger, read
from tests.chaos.audit.report import page
from tests.chaos.run import Run
from tests.chaos.schedule import BROKERS, Schedule, plan
from tests.chaos.system.disk import in_namespace
from tests.chaos.system.settings import changed_settings
from tests.chaos.system.system import SystemOptions

_MODULE = "tests.chaos"


def main() -> int:
    """Run the command."""
    options = _options()
    schedule = plan(
        options.seed,
        options.minutes,
        faults_per_minute=options.faults,
        jobs_per_minute=options.jobs,
        destructive=options.destructive,
    )
    if options.schedule:
        _print(*schedule.lines())
        return 0
    if options.examine:
        return _report(read(options.examine), options.report)
    mount_error = in_namespace(_MODULE, sys.argv[1:])
    if mount_error:
        _print(f"No small disk can be mounted, so there will be no disk-full faults: {mount_error}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(schedule, options, folder, small_disks=mount_error is None)
    except (DevstackError, TimeoutError) as error:
        _print(f"The run could not be started: {error}")
        return 2
    except KeyboardInterrupt:
        _print("interrupted")
        return 130


def _run(schedule: Schedule, options: argparse.Namespace, folder: Path, *, small_disks: bool) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedule.jsonl").write_text("\n".join(schedule.lines()) + "\n", encoding="utf-8")
    _print(
        f"seed {schedule.seed}, schedule {schedule.digest}: {len(schedule.faults)} faults, {len(schedule.jobs)} jobs"
    )
    _print(f"ledger, schedule and logs are in {folder}")
    brokers = BROKERS[:1] if options.destructive else BROKERS  # the log of one of three could not be destroyed
    changed = changed_settings(options.crashes, len(brokers))
    line = shlex.join(["python", "-m", _MODULE, *sys.argv[1:]])
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.add(
            Command(
                line=line,
                seed=schedule.seed,
                digest=schedule.digest,
                minutes=options.minutes,
                settings=changed,
            )
        )
        system_options = SystemOptions(folder / "system", tools_folder(LOCAL / "tools"), changed, small_disks, brokers)
        Run(system_options, ledger, _print).execute(schedule, drain=options.drain)
        return _report(ledger.entries, options.report or folder / "report.md")


def _report(entries: Sequence[Entry], file: Path | None) -> int:
    report = page(entries)
    _print(report)
    if file is not None:
        file.write_text(report + "\n", encoding="utf-8")
    return 1 if problems(entries) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of the schedule of faults and jobs")
    parser.add_argument("--minutes", type=float, default=2.0, help="duration of the fault injection, min")
    parser.add_argument("--faults", type=float, default=18.0, metavar="N", help="faults a minute")
    parser.add_argument("--jobs", type=float, default=20.0, metavar="N", help="jobs a minute")
    parser.add_argument("--drain", type=float, default=240.0, metavar="S", help="maximum wait for the last jobs, s")
    parser.add_argument(
        "--crashes", type=int, default=6, metavar="N", help="MAX_CRASHES: crashes until poison is quarantined"
    )
    parser.add_argument(
        "--destructive",
        action="store_true",
        help="destroy logs and working files; jobs that were only in a destroyed log may be lost",
    )
    parser.add_argument("--folder", type=Path, help="folder for ledger, logs and data; default: a new one")
    parser.add_argument("--report", type=Path, help="file to which the report is also written")
    parser.add_argument("--examine", type=Path, metavar="LEDGER", help="print the report of an earlier run and exit")
    parser.add_argument("--schedule", action="store_true", help="print the schedule and exit")
    return parser.parse_args()


def _print(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
