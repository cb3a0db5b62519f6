#!/usr/bin/env bash
# Runs UVR-API on this machine. Creates the virtual environment if necessary, then starts the services.
#
#   ./start_local.sh demo           separate a demo song with all services, then stop
#   ./start_local.sh                run the services in the foreground until Ctrl-C
#   ./start_local.sh status         print whether the services run (from another terminal)
#   ./start_local.sh stop           stop the services (from another terminal)
#   ./start_local.sh install [dev]  only create the virtual environment; dev: with the tools for tests and checks
#   --kafka                         use a real Apache Kafka and a real S3 server
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
locks=requirements
unset PYTHONDONTWRITEBYTECODE # cached byte code saves seconds at every later start

log() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' start_local.sh; }

# Rejects unknown arguments before anything is installed.
check_arguments() {
    local word
    for word in "$@"; do
        case $word in
        -h | --help) usage && exit ;;
        --kafka | run | demo | status | stop | install | dev) ;;
        *) log "Unknown argument \"$word\". See ./start_local.sh --help." && exit 64 ;;
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
    log "Python 3.11 or 3.12 is needed: install it, or set PYTHON to one."
    return 1
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# Installs exactly the packages in the lock files. Each of them must have a hash that is listed there.
install_locked() {
    if [ -x $venv/bin/uv ]; then
        $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --require-hashes "$@"
    else
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes "$@"
    fi
}

# The CPU builds of torch are a tenth of the size, but only PyTorch's own index has them and their hashes. It may have
# been unreachable when the locks were written (then there is no torch-cpu.lock), or is now: the dry run fails within
# seconds in that case.
install_torch_cpu() {
    [ -x $venv/bin/uv ] && [ -f $locks/torch-cpu.lock ] || return 1
    UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 20 \
        $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --require-hashes --dry-run \
        --torch-backend cpu -r $locks/torch-cpu.lock 2>/dev/null || return 1
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
    # An environment with the development tools is sufficient without them as well.
    if [ "$kind" = run ] && [ -f $stamp ] && grep -q '^dev ' $stamp; then kind=dev; fi
    wanted="$kind $device $(cat $locks/*.lock | cksum)"
    if [ -x $venv/bin/python ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$wanted" ]; then return; fi
    # An environment whose creation was interrupted has no pip yet.
    if ! $venv/bin/python -c 'import pip' 2>/dev/null; then
        python=$(find_python)
        log "Creating $venv with $($python --version)."
        "$python" -m venv $venv || {
            log "The virtual environment could not be created. Install Python's venv module (on Debian: python3-venv)."
            return 1
        }
    fi
    log "Installing the locked packages. The first installation downloads about 3 GB; other checkouts share its cache."
    [ -x $venv/bin/uv ] ||
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $locks/uv.lock ||
        log "uv could not be installed. Using pip, which is slower."
    install_all "$device" "$kind"
    printf '%s\n' "$wanted" >$stamp
}

check_arguments "$@"
if [ "${1:-}" = install ]; then
    ensure_venv "${2:-run}"
    exit
fi
# These commands install nothing: running services already have a virtual environment.
case " $* " in
*" stop "*) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 0; } ;;
*" status "*) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 3; } ;;
*) ensure_venv run ;;
esac
exec $venv/bin/python -m devstack "$@"
