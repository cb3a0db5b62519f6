"""What `./start_local.sh` runs once the virtual environment is there."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

from config import ConfigError, LogFormat, LogSettings
from demo.centre_model import DEMO_MODEL_NAME
from demo.drive import DemoError, run_demo
from devstack import environment, stack, state
from devstack.dotenv import complete_env_file
from devstack.errors import DevstackError
from pipeline.errors import PipelineError
from pipeline.service.logs import configure_logging
from pipeline.service.shutdown import ExitCode

_STATE = stack.LOCAL / "stack.json"
_ENV_FILE = stack.ROOT / ".env"
#: As `.env` names it: relative, so that the checkout may be moved.
_DEMO_MODELS = Path(".local/demo-models")
#: The demo's own, so that no worker of the user's ever meets its jobs, nor its worker the user's.
_DEMO_CHANNELS = {
    "KAFKA_TASK_TOPIC": "uvr_demo_tasks",
    "KAFKA_RESULT_TOPIC": "uvr_demo_results",
    "KAFKA_EVENT_TOPIC": "uvr_demo_events",
    "KAFKA_DEAD_LETTER_TOPIC": "uvr_demo_dead_letters",
    "KAFKA_PROCESSOR_GROUP_ID": "uvr_demo_processors",
    "KAFKA_UPLOADER_GROUP_ID": "uvr_demo_uploaders",
}
_SECRETS = ("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD", "WEBHOOK_SECRET")
#: How often the foreground looks whether every service is still there, s.
_WATCH_SECONDS = 1.0
#: What `status` answers when nothing runs, as systemctl and the Linux Standard Base have it.
_NOT_RUNNING = 3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="start_local.sh", description="UVR-API on this machine.")
    parser.add_argument("command", nargs="?", choices=("run", "demo", "status", "stop"), default="run")
    parser.add_argument("--kafka", action="store_true", help="on a real Apache Kafka and a real S3 server")
    options = parser.parse_args(arguments)
    _configure_logging()
    _end_in_good_order()
    commands = {"run": _run, "demo": _demo, "status": _status, "stop": _stop}
    try:
        return commands[options.command](options.kafka)
    except (DevstackError, ConfigError, DemoError, PipelineError) as error:
        print(error, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.KILLED


def _configure_logging() -> None:
    """What the servers do is told in plain words; of the pipeline's own lines only warnings concern the user."""
    configure_logging("start_local", LogSettings(level="WARNING", format=LogFormat.CONSOLE))
    told = logging.getLogger("devstack")
    told.setLevel(logging.INFO)
    told.addHandler(logging.StreamHandler())
    told.propagate = False


def _end_in_good_order() -> None:
    """`stop` and a terminal that is closed end it as Ctrl-C does; what is ignored (nohup) stays so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _demo(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE, _DEMO_MODELS)
    home = stack.LOCAL / ("demo-kafka" if real_servers else "demo")
    with state.held_claim(home / "running.json", "the demo is running already in this checkout"):
        plan = _demo_plan(home / "state", real_servers)
        # A demo that was killed may have left its job behind, whose webhook nobody waits for any more.
        shutil.rmtree(plan.data_dir, ignore_errors=True)
        with stack.running(plan) as services:
            run_demo(services.settings(), services.api_url, home, watch=services.require_running)
    return ExitCode.OK


def _demo_plan(data_dir: Path, real_servers: bool) -> stack.Plan:
    """The demo is the same for everybody: of the user's settings it takes secrets, and servers if it is asked to."""
    settings = {
        **environment.DEVELOPMENT,
        **environment.explicit_settings(_SECRETS, _ENV_FILE),
        **(environment.connections(_ENV_FILE) if real_servers else {}),
        **_DEMO_CHANNELS,
        **environment.free_ports(),
        "MODEL_NAME": DEMO_MODEL_NAME,
        "MODEL_FILE_DIR": str(stack.ROOT / _DEMO_MODELS),
        "DATA_DIR": str(data_dir),
    }
    return stack.Plan(
        environment=environment.apart(settings), data_dir=data_dir, log_prefix="demo-", real_servers=real_servers
    )


def _run(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE, _DEMO_MODELS)
    data_dir = stack.LOCAL / "kafka-stack" if real_servers else stack.LOCAL
    defaults = {**environment.DEVELOPMENT, "DATA_DIR": str(data_dir)}
    plan = stack.Plan(
        environment=environment.everyday(_ENV_FILE, defaults),
        env_file=_ENV_FILE,
        data_dir=data_dir,
        real_servers=real_servers,
    )
    with state.held_claim(_STATE, "the services are running already; ./start_local.sh stop ends them") as claim:
        _announce_download(plan)
        with stack.running(plan) as services:
            claim.announce(services.api_url)
            _welcome(services)
            _watch(services)
    return ExitCode.OK


def _announce_download(plan: stack.Plan) -> None:
    model = plan.settings().model
    if model.model_name != DEMO_MODEL_NAME and not (plan.folder / model.model_dir / model.model_name).is_file():
        print(f"the model {model.model_name} is not in {model.model_dir} yet and is fetched first", flush=True)


def _watch(services: stack.Stack) -> None:
    """Until Ctrl-C."""
    try:
        while True:
            time.sleep(_WATCH_SECONDS)
            services.require_running()
    except KeyboardInterrupt:
        print("stopping", flush=True)


def _welcome(services: stack.Stack) -> None:
    settings = services.settings()
    username, password = settings.api.require_credentials()
    kafka = settings.kafka.bootstrap_servers or "embedded"
    print(
        f"""
UVR-API is ready.

  address      {services.api_url}   (documentation: {services.api_url}/docs)
  credentials  {username} / {password}
  model        {settings.model.model_name}
  broker       {kafka}
  stems        {settings.storage.engine.value}
  logs         {Path(stack.LOGS).relative_to(stack.ROOT)}/*.log

  curl -u {shlex.quote(f"{username}:{password}")} -H 'Content-Type: application/json' \\
       -d '{{"audio": "http://127.0.0.1:9000/song.mp3", "hook_url": "http://127.0.0.1:9000/hook"}}' \\
       {services.api_url}/generate

Ctrl-C stops it.
""",
        flush=True,
    )


def _status(_real_servers: bool) -> int:
    found = state.status(_STATE)
    if found is None:
        print("not running")
        return _NOT_RUNNING
    where = f"running at {found.address}" if found.address else "starting"
    print(f"{where}, process {found.pid}")
    return ExitCode.OK


def _stop(_real_servers: bool) -> int:
    print("stopped" if state.stop(_STATE) else "not running")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
