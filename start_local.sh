#!/usr/bin/env bash
# Runs UVR-API on this machine. Creates the virtual environment if necessary, then starts the services.
#
#   ./start_local.sh demo           separate a demo song with all services, then stop
#   ./start_local.sh separate SONG… separate audio files or URLs; see ./start_local.sh separate --help
#   ./start_local.sh                run the services in the foreground until Ctrl-C; services that end are restarted
#   ./start_local.sh status         print the state of the services (from another terminal)
#   ./start_local.sh stop           stop the services (from another terminal)
#   ./start_local.sh install [dev]  only create the virtual environment; dev: with the tools for tests and checks
#   --kafka                         use a real Apache Kafka and a real S3 server
set -euo pipefail
umask 077 # the queue, stems and logs contain what clients sent
# Variables that would make Python import from, or install into, other folders.
unset CDPATH PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONUSERBASE PYTHONPLATLIBDIR PYTHONSTARTUP
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_PYTHON PIP_CONSTRAINT PIP_REQUIREMENT PIP_DRY_RUN
unset UV_SYSTEM_PYTHON UV_PYTHON UV_CONSTRAINT UV_OVERRIDE UV_NO_BINARY UV_BREAK_SYSTEM_PACKAGES UV_PROJECT_ENVIRONMENT
unset PYTHONDONTWRITEBYTECODE # cached byte code saves seconds at every later start
export UVR_CALLER_FOLDER=$PWD
script=$(readlink -f "${BASH_SOURCE[0]}")
cd "${script%/*}"

venv=.venv
locks=requirements

log() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' start_local.sh; }

# Rejects unknown arguments before anything is installed.
check_arguments() {
    local word
    for word in "$@"; do
        case $word in
        -h | --help) usage && exit ;;
        separate) return ;; # It checks its own arguments.
        --kafka | run | demo | status | stop | install | dev) ;;
        *) log "Unknown argument \"$word\". See ./start_local.sh --help." && exit 64 ;;
        esac
    done
}

is_supported() {
    "$1" -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 15) or v[:3] == (3, 14, 1))' 2>/dev/null
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || { log "PYTHON=$PYTHON is not a command." && return 1; }
        is_supported "$PYTHON" || { log "PYTHON=$PYTHON is not Python 3.11 to 3.14 (without 3.14.1)." && return 1; }
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if command -v "$candidate" >/dev/null && is_supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    log "Python 3.11 to 3.14 is needed: install it, or set PYTHON to one."
    return 1
}

has_nvidia_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

create_venv() {
    local python
    python=$(find_python)
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        log "$python cannot create virtual environments: install its venv module (on Debian and Ubuntu: python3-venv)."
        return 1
    fi
    log "Creating $venv with $("$python" --version)."
    "$python" -m venv $venv || { log "$PWD/$venv could not be created." && return 1; }
}

# Installs exactly the packages in the lock files, each with a hash that is listed there, and shows the progress.
# Without a terminal, uv's list of all packages is dropped.
install_locked() {
    if [ ! -x $venv/bin/uv ]; then
        $venv/bin/python -m pip install --disable-pip-version-check --no-deps --require-hashes "$@" >&2
    elif [ -t 2 ]; then
        $venv/bin/uv pip install --python $venv/bin/python --no-deps --require-hashes "$@"
    else
        $venv/bin/uv pip install --python $venv/bin/python --no-deps --require-hashes "$@" 2> >(grep -v '^ [-+~] ' >&2)
    fi
}

# The CPU builds of torch are a tenth of the size, but only PyTorch's own index has them and their hashes. It may have
# been unreachable when the locks were written (then there is no torch-cpu.lock), or is now: the dry run fails within
# seconds in that case.
can_install_torch_cpu() {
    [ -x $venv/bin/uv ] && [ -f $locks/torch-cpu.lock ] && UV_HTTP_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 20 \
        $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --require-hashes --dry-run \
        --torch-backend cpu -r $locks/torch-cpu.lock 2>/dev/null
}

install_all() { # device, dev or not
    local files=(-r $locks/service.lock -r $locks/separation.lock -r "$locks/onnxruntime-$1.lock")
    [ "$2" = dev ] && files+=(-r $locks/dev.lock -r $locks/http3.lock)
    if [ "$1" = cpu ] && can_install_torch_cpu; then
        log "Installing PyTorch for CPUs (a download of about 0.2 GB)."
        install_locked --torch-backend cpu -r $locks/torch-cpu.lock
    else
        log "Installing PyTorch with CUDA (a download of about 3 GB, 5 GB of disk)."
        install_locked -r $locks/torch-cuda.lock
    fi
    log "Installing the other packages (a download of about 0.4 GB, 1.5 GB of disk)."
    install_locked "${files[@]}"
}

# Fails if the packages do not work, whatever the installers reported.
prove_installation() {
    $venv/bin/python -c 'import audio_separator.separator, av, boto3, fastapi, kafka, onnxruntime, soxr, torch, uvicorn' && return
    log "The packages in $PWD/$venv cannot be imported: see the error above. Remove $venv and try again."
    return 1
}

ensure_venv() { # dev or not
    local device=cpu kind=$1 stamp wanted
    has_nvidia_gpu && device=gpu
    stamp=$venv/.installed
    # An environment with the development tools is sufficient without them as well.
    if [ "$kind" = run ] && [ -f $stamp ] && grep -q '^dev ' $stamp; then kind=dev; fi
    wanted="$kind $device $(cat $locks/*.lock | cksum)"
    if [ -x $venv/bin/python ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$wanted" ]; then return; fi
    if [ ! -w . ]; then
        log "The folder $PWD is not writable: packages, logs and stems are stored in it. Use a checkout of your own."
        return 1
    fi
    # An environment whose creation was interrupted has no pip yet.
    $venv/bin/python -c 'import pip' 2>/dev/null || create_venv
    log "Installing the packages of the lock files. Other checkouts share their downloads."
    [ -x $venv/bin/uv ] ||
        $venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $locks/uv.lock ||
        log "uv could not be installed. Using pip, which is slower."
    install_all "$device" "$kind"
    prove_installation
    printf '%s\n' "$wanted" >$stamp
}

check_arguments "$@"
if [ "${1:-}" = install ]; then
    ensure_venv "${2:-run}"
    exit
fi
# These commands install nothing: running services already have a virtual environment.
command=${1:-run}
[ "$command" != --kafka ] || command=${2:-run}
case $command in
stop) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 0; } ;;
status) [ -x $venv/bin/python ] || { printf 'not running\n' && exit 3; } ;;
*) ensure_venv run ;;
esac
exec $venv/bin/python -m devstack "$@"
