"""Implement the commands of `./start_local.sh`, which starts this module in the virtual environment."""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import ConfigError, LogFormat, LogSettings, load
from demo.centre_model import DEMO_MODEL_NAME
from demo.client import ClientError
from demo.drive import run_demo
from demo.listener import Listener, signing_secret
from demo.song import render_song, write_song
from devstack import environment, stack, state
from devstack.dotenv import complete_env_file
from devstack.errors import DevstackError
from devstack.interrupts import handle_signals
from devstack.readiness import missing_components
from devstack.separate import SeparationRequest, read_request, separate
from devstack.supervisor import ServiceSupervisor
from pipeline.errors import PipelineError
from pipeline.service.logs import configure_logging
from pipeline.service.shutdown import ExitCode

_STATE = stack.LOCAL / "stack.json"
_ENV_FILE = stack.ROOT / ".env"
#: The demo model lies apart from the user's models, to which MODEL_FILE_DIR leads by default.
_DEMO_MODELS = Path(".local/demo-models")
_DEMO_SONG = stack.LOCAL / "demo-song"
#: The demo has its own topics and groups, so that its jobs never mix with the user's.
_DEMO_CHANNELS = {
    "KAFKA_TASK_TOPIC": "uvr_demo_tasks",
    "KAFKA_RESULT_TOPIC": "uvr_demo_results",
    "KAFKA_EVENT_TOPIC": "uvr_demo_events",
    "KAFKA_DEAD_LETTER_TOPIC": "uvr_demo_dead_letters",
    "KAFKA_PROCESSOR_GROUP_ID": "uvr_demo_processors",
    "KAFKA_UPLOADER_GROUP_ID": "uvr_demo_uploaders",
}
_CREDENTIALS = (
    "BASIC_AUTH_USERNAME",
    "BASIC_AUTH_PASSWORD",
    "BASIC_AUTH_PASSWORD_FILE",
    "WEBHOOK_SECRET",
    "WEBHOOK_SECRET_FILE",
)
#: Time between two checks that every service still runs, s.
_CHECK_SECONDS = 1.0
#: Exit status of `status` when nothing runs, as with systemctl and in the Linux Standard Base.
_NOT_RUNNING = 3


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="start_local.sh", description="Run UVR-API on this machine.")
    parser.add_argument("--kafka", action="store_true", help="use a real Apache Kafka and a real S3 server")
    parser.add_argument("command", nargs="?", choices=("run", "demo", "separate", "status", "stop"), default="run")
    # The arguments after `separate` have a parser of their own.
    end = arguments.index("separate") + 1 if "separate" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    _configure_logging()
    handle_signals()
    commands = {"run": _run, "demo": _demo, "status": _status, "stop": _stop}
    try:
        if options.command == "separate":
            return _separate(read_request(arguments[end:]), options.kafka)
        return commands[options.command](options.kafka)
    except (DevstackError, ConfigError, ClientError, PipelineError) as error:
        print(error, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    except OSError as error:
        print(f"{error.filename or 'the checkout'}: {error.strerror}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.KILLED


def _configure_logging() -> None:
    """Print the messages of this package as plain text, and only the warnings of the pipeline."""
    configure_logging("start_local", LogSettings(level="WARNING", format=LogFormat.CONSOLE))
    logger = logging.getLogger("devstack")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False


def _demo(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE)
    home = stack.LOCAL / ("demo-kafka" if real_servers else "demo")
    with state.held_claim(home / "running.json", "the demo is running already in this checkout"):
        plan = _demo_plan(home / "state", real_servers)
        # A demo that was killed may have left a job, whose webhook has no receiver any more.
        shutil.rmtree(plan.data_dir, ignore_errors=True)
        with stack.running(plan) as services, ServiceSupervisor(services.processes) as supervisor:
            run_demo(services.settings(), services.api_url, home, watch=supervisor.require_running)
    return ExitCode.OK


def _demo_plan(data_dir: Path, real_servers: bool) -> stack.Plan:
    """Return the plan of the demo, which uses only the user's credentials and, with `--kafka`, the user's servers."""
    own = environment.explicit_settings(_CREDENTIALS, _ENV_FILE)
    if real_servers:
        own |= environment.server_settings(_ENV_FILE)
    settings = {
        **environment.DEVELOPMENT,
        # The demo's services run in another folder than the user's.
        **{name: str(stack.ROOT / value) if name.endswith("_FILE") else value for name, value in own.items()},
        **_DEMO_CHANNELS,
        **environment.free_ports(),
        "MODEL_NAME": DEMO_MODEL_NAME,
        "MODEL_FILE_DIR": str(stack.ROOT / _DEMO_MODELS),
        "DATA_DIR": str(data_dir),
    }
    return stack.Plan(
        environment=environment.isolated_environment(settings),
        data_dir=data_dir,
        log_prefix="demo-",
        real_servers=real_servers,
    )


def _run(real_servers: bool) -> int:
    with _started(real_servers) as (services, supervisor), _demo_listener(services) as listener:
        _print_welcome(services, listener)
        try:
            while True:
                supervisor.require_running()
                _print_webhooks(listener)
        except KeyboardInterrupt:
            print("stopping", flush=True)
    return ExitCode.OK


@contextmanager
def _started(real_servers: bool) -> Iterator[tuple[stack.Stack, ServiceSupervisor]]:
    """Run the services with the user's settings, and announce their state, until the block is left."""
    complete_env_file(_ENV_FILE)
    plan = _user_plan(real_servers)
    with state.held_claim(_STATE, "the services are running already; ./start_local.sh stop ends them") as claim:
        model = plan.settings().model
        if model.model_name != DEMO_MODEL_NAME and not (plan.folder / model.model_dir / model.model_name).is_file():
            print(f"downloading the model {model.model_name} first: it is not in {model.model_dir} yet", flush=True)
        with stack.running(plan) as services:
            supervisor = ServiceSupervisor(services.processes, lambda: _announce(claim, services, supervisor))
            _announce(claim, services, supervisor)
            with supervisor:
                yield services, supervisor


def _user_plan(real_servers: bool) -> stack.Plan:
    """Return the plan of the services with the user's settings."""
    data_dir = stack.LOCAL / "kafka-stack" if real_servers else stack.LOCAL
    defaults = {**environment.development_settings(_ENV_FILE), "DATA_DIR": str(data_dir), "MODEL_NAME": DEMO_MODEL_NAME}
    model = environment.explicit_settings(("MODEL_NAME",), _ENV_FILE).get("MODEL_NAME", DEMO_MODEL_NAME)
    if model == DEMO_MODEL_NAME:
        defaults["MODEL_FILE_DIR"] = str(_DEMO_MODELS)
    return stack.Plan(
        environment=environment.user_environment(_ENV_FILE, defaults),
        env_file=_ENV_FILE,
        data_dir=data_dir,
        real_servers=real_servers,
    )


def _announce(claim: state.Claim, services: stack.Stack, supervisor: ServiceSupervisor) -> None:
    """Publish the state of the services for `status`, `stop` and `separate`."""
    broker = services.settings().kafka.bootstrap_servers if "kafka" in services.servers else None
    urls = services.health_urls()
    claim.announce(
        urls["api"],
        broker,
        [
            state.ServiceState(name, member.state, member.process.pid, urls.get(name), member.restarts, member.last_end)
            for name, member in supervisor.members.items()
        ],
    )


def _demo_listener(services: stack.Stack) -> Listener:
    """Return a listener with the demo song, for the request that is printed."""
    song = _DEMO_SONG / "mixture.flac"
    if not song.is_file():
        write_song(render_song(), _DEMO_SONG)
    return Listener({"song.flac": song}, signing_secret(services.settings()))


def _print_welcome(services: stack.Stack, listener: Listener) -> None:
    settings = services.settings()
    username, password = settings.api.require_credentials()
    kafka = settings.kafka.bootstrap_servers or "embedded"
    if settings.download.allow_private_networks:
        audio, hook = listener.url("song.flac"), listener.hook_url
        about = "This posts the demo song, which this program serves. Its webhook will be printed here."
    else:
        audio, hook = "https://example.com/song.mp3", "https://example.com/hook"
        about = "Replace the two addresses: API_HOST is not on loopback, so that private networks are closed."
    print(
        f"""
UVR-API is ready.

  address      {services.api_url}   (documentation: {services.api_url}/docs)
  credentials  {username} / {password}
  model        {settings.model.model_name}
  broker       {kafka}
  stems        {settings.storage.engine.value}
  logs         {Path(stack.LOGS).relative_to(stack.ROOT)}/*.log

{about}

  curl -u {shlex.quote(f"{username}:{password}")} -H 'Content-Type: application/json' \\
       -d '{{"audio": "{audio}", "hook_url": "{hook}"}}' \\
       {services.api_url}/generate

Songs of your own: ./start_local.sh separate FILE (in another terminal). Press Ctrl-C to stop.
""",
        flush=True,
    )


def _print_webhooks(listener: Listener) -> None:
    """Print the webhooks that arrive within `_CHECK_SECONDS`."""
    try:
        received = listener.received.get(timeout=_CHECK_SECONDS)
    except queue.Empty:
        return
    signature = "verified" if received.verified else "not valid, or not checked because WEBHOOK_SECRET is not set"
    print(f"\nA webhook has arrived. Its signature is {signature}.\n{json.dumps(received.body, indent=2)}", flush=True)


def _separate(request: SeparationRequest, real_servers: bool) -> int:
    found = state.status(_STATE)
    if found is None:
        with _started(real_servers) as (services, supervisor):
            failed = separate(request, services.settings(), services.api_url, watch=supervisor.require_running)
    elif found.address is None:
        raise DevstackError("the services are starting; try again when ./start_local.sh status says that they run")
    else:
        more = {"KAFKA_BOOTSTRAP_SERVERS": found.broker} if found.broker else {}
        plan = _user_plan(real_servers=bool(found.broker))
        settings = load(_ENV_FILE, {**plan.environment, **more})
        os.chdir(plan.folder)  # relative paths in the settings refer to it
        failed = separate(request, settings, found.address, watch=_require_stack)
    return 1 if failed else ExitCode.OK


def _require_stack() -> None:
    """Raise DevstackError if the services have ended."""
    if state.status(_STATE) is None:
        raise DevstackError("the services have ended; they will go on with the job when they run again")


def _status(_real_servers: bool) -> int:
    found = state.status(_STATE)
    if found is None:
        print("not running")
        return _NOT_RUNNING
    where = f"running at {found.address}" if found.address else "starting"
    print(f"{where}, process {found.pid}")
    for service in found.services:
        print(f"  {service.name:<10} {_describe(service)}")
    return ExitCode.OK


def _describe(service: state.ServiceState) -> str:
    """Return the state of a service in words."""
    asked = service.url if service.state == "running" else None
    words = [_readiness(asked) if asked else service.state, f"process {service.pid}"]
    if service.restarts:
        words.append(f"{service.restarts} restart{'s' * (service.restarts > 1)}")
    if service.last_end:
        words.append(f"the last time it {service.last_end}")
    return ", ".join(words)


def _readiness(url: str) -> str:
    """Return in words whether the service at `url` is ready."""
    missing = missing_components(url)
    if missing is None:
        return "does not answer"
    return f"not ready. {'; '.join(missing)}" if missing else "ready"


def _stop(_real_servers: bool) -> int:
    print("stopped" if state.stop(_STATE) else "not running")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
