#!/usr/bin/env bash
# UVR-API on this machine: makes the virtual environment if it is not there, then starts the services.
#
#   ./start_local.sh demo           everything from nothing: a song in, its stems out
#   ./start_local.sh                the services, in the foreground, until Ctrl-C
#   ./start_local.sh status|stop    from another terminal
#   ./start_local.sh install [dev]  the virtual environment alone; dev: with what tests and checks need
#   --kafka                         on a real Apache Kafka and a real S3 server
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
locks=requirements
unset PYTHONDONTWRITEBYTECODE # byte code that is kept saves seconds at every later start

say() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' start_local.sh; }

# Before anything is installed for it.
check_arguments() {
    local word
    for word in "$@"; do
        case $word in
        -h | --help) usage && exit ;;
        --kafka | run | demo | status | stop | install | dev) ;;
        *) say "./start_local.sh knows no \"$word\"; ./start_local.sh --help tells what it knows." && exit 64 ;;
        esac
    done
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "Python 3.11 or 3.12 is needed: install it, or set PYTHON to one."
    return 1
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# Installs exactly what the lock files name, nothing that they do not.
install_locked() {
    if [ -x $venv/bin/uv ]; then
        $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps "$@"
    else
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$@"
    fi
}

# The CPU builds of torch are a tenth of the size, but live on an index of their own, which may be out of reach: a
# look at it ends within seconds.
install_torch_cpu() {
    [ -x $venv/bin/uv ] || return 1
    UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 20 \
        $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --dry-run --torch-backend cpu \
        -r $locks/torch-cpu.lock 2>/dev/null || return 1
    install_locked --torch-backend cpu -r $locks/torch-cpu.lock
}

install_torch() {
    if [ "$1" = cpu ] && install_torch_cpu; then return; fi
    install_locked -r $locks/torch-cuda.lock
}

install_all() { # device, dev or not
    local files=(-r $locks/service.lock -r $locks/separation.lock -r "$locks/onnxruntime-$1.lock")
    [ "$2" = dev ] && files+=(-r $locks/dev.lock -r $locks/http3.lock)
    install_torch "$1"
    install_locked "${files[@]}"
}

ensure_venv() { # dev or not
    local device=cpu kind=$1 stamp wanted python
    has_nvidia_gpu && device=gpu
    stamp=$venv/.installed
    # An environment that has the development tools serves without them as well.
    if [ "$kind" = run ] && [ -f $stamp ] && grep -q '^dev ' $stamp; then kind=dev; fi
    wanted="$kind $device $(cat $locks/*.lock | cksum)"
    if [ -x $venv/bin/python ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$wanted" ]; then return; fi
    # An environment whose making was cut short has no pip yet.
    if ! $venv/bin/python -c 'import pip' 2>/dev/null; then
        python=$(find_python)
        say "making $venv with $($python --version)"
        "$python" -m venv $venv || {
            say "The virtual environment could not be made: install Python's venv module (on Debian: python3-venv)."
            return 1
        }
    fi
    say "installing the locked requirements (the first time this fetches about 3 GB; a second checkout shares the cache)"
    [ -x $venv/bin/uv ] || $venv/bin/python -m pip install --quiet --disable-pip-version-check -r $locks/uv.lock ||
        say "uv cannot be had; pip does the same, slower"
    install_all "$device" "$kind"
    printf '%s\n' "$wanted" >$stamp
}

check_arguments "$@"
if [ "${1:-}" = install ]; then
    ensure_venv "${2:-run}"
    exit
fi
# Nothing is installed for a question: whatever runs has its environment already.
case " $* " in
*" stop "*) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 0; } ;;
*" status "*) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 3; } ;;
*) ensure_venv run ;;
esac
exec $venv/bin/python -m devstack "$@"
