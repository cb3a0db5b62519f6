"""Implement the commands of `./start_local.sh`, which starts this module in the virtual environment."""

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
#: Relative, as in `.env`, so that the checkout can be moved.
_DEMO_MODELS = Path(".local/demo-models")
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
    parser.add_argument("command", nargs="?", choices=("run", "demo", "status", "stop"), default="run")
    parser.add_argument("--kafka", action="store_true", help="use a real Apache Kafka and a real S3 server")
    options = parser.parse_args(arguments)
    _configure_logging()
    # `stop` and a closed terminal have the same effect as Ctrl-C. An ignored signal (nohup) stays ignored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
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
    """Print the messages of this package as plain text, and only the warnings of the pipeline."""
    configure_logging("start_local", LogSettings(level="WARNING", format=LogFormat.CONSOLE))
    logger = logging.getLogger("devstack")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False


def _demo(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE, _DEMO_MODELS)
    home = stack.LOCAL / ("demo-kafka" if real_servers else "demo")
    with state.held_claim(home / "running.json", "the demo is running already in this checkout"):
        plan = _demo_plan(home / "state", real_servers)
        # A demo that was killed may have left a job, whose webhook has no receiver any more.
        shutil.rmtree(plan.data_dir, ignore_errors=True)
        with stack.running(plan) as services:
            run_demo(services.settings(), services.api_url, home, watch=services.require_running)
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
    complete_env_file(_ENV_FILE, _DEMO_MODELS)
    data_dir = stack.LOCAL / "kafka-stack" if real_servers else stack.LOCAL
    defaults = {**environment.DEVELOPMENT, "DATA_DIR": str(data_dir)}
    plan = stack.Plan(
        environment=environment.user_environment(_ENV_FILE, defaults),
        env_file=_ENV_FILE,
        data_dir=data_dir,
        real_servers=real_servers,
    )
    with state.held_claim(_STATE, "the services are running already; ./start_local.sh stop ends them") as claim:
        model = plan.settings().model
        if model.model_name != DEMO_MODEL_NAME and not (plan.folder / model.model_dir / model.model_name).is_file():
            print(f"downloading the model {model.model_name} first: it is not in {model.model_dir} yet", flush=True)
        with stack.running(plan) as services:
            claim.announce(services.api_url)
            _print_welcome(services)
            try:
                while True:
                    time.sleep(_CHECK_SECONDS)
                    services.require_running()
            except KeyboardInterrupt:
                print("stopping", flush=True)
    return ExitCode.OK


def _print_welcome(services: stack.Stack) -> None:
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

Press Ctrl-C to stop.
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
