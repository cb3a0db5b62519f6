"""What `./start_local.sh` runs once the virtual environment is there."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from config import ConfigError, LogFormat, LogSettings
from demo.drive import DemoError, run_demo
from devstack import stack, state
from devstack.dotenv import complete_env_file
from devstack.errors import DevstackError
from pipeline.errors import PipelineError
from pipeline.lifecycle import ExitCode
from pipeline.telemetry import configure_logging

_STATE = stack.LOCAL / "stack.json"
_ENV_FILE = stack.ROOT / ".env"
#: How often the foreground looks whether every service is still there, s.
_WATCH_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="start_local.sh", description="UVR-API on this machine.")
    parser.add_argument("command", nargs="?", choices=("run", "demo", "status", "stop"), default="run")
    parser.add_argument("--kafka", action="store_true", help="on a real Apache Kafka and a real S3 server")
    options = parser.parse_args(arguments)
    _configure_logging()
    commands = {"run": _run, "demo": _demo, "status": _status, "stop": _stop}
    try:
        return commands[options.command](options.kafka)
    except (DevstackError, ConfigError, DemoError, PipelineError) as error:
        print(error, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    except KeyboardInterrupt:
        return ExitCode.KILLED


def _configure_logging() -> None:
    """What the servers do is told in plain words; of the pipeline's own lines only warnings concern the user."""
    configure_logging("start_local", LogSettings(level="WARNING", format=LogFormat.CONSOLE))
    told = logging.getLogger("devstack")
    told.setLevel(logging.INFO)
    told.addHandler(logging.StreamHandler())
    told.propagate = False


def _demo(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE, stack.DEMO_MODELS)
    data_dir = stack.LOCAL / ("demo-kafka" if real_servers else "demo")
    overrides = {**stack.free_ports(), **stack.demo_model(), "DATA_DIR": str(data_dir)}
    with stack.running(
        real_servers=real_servers, data_dir=data_dir, overrides=overrides, log_prefix="demo-"
    ) as services:
        run_demo(services.settings(), services.api_url, data_dir, watch=services.require_running)
    return ExitCode.OK


def _run(real_servers: bool) -> int:
    complete_env_file(_ENV_FILE, stack.DEMO_MODELS)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    data_dir = stack.LOCAL / "kafka-stack" if real_servers else stack.LOCAL
    with (
        state.held(_STATE, "starting"),
        stack.running(real_servers=real_servers, data_dir=data_dir, overrides={}) as services,
    ):
        _welcome(services)
        while not stopped.wait(_WATCH_SECONDS):
            services.require_running()
        print("stopping")
    return ExitCode.OK


def _welcome(services: stack.Stack) -> None:
    settings = services.settings()
    username, password = settings.api.require_credentials()
    kafka = settings.kafka.bootstrap_servers or "embedded"
    print(
        f"""
UVR-API is ready.

  address      {services.api_url}   (documentation: {services.api_url}/docs)
  credentials  {username} / {password}   (from .env)
  model        {settings.model.model_name}
  broker       {kafka}
  stems        {settings.storage.engine.value}
  logs         {Path(stack.LOGS).relative_to(stack.ROOT)}/*.log

  curl -u '{username}:{password}' -H 'Content-Type: application/json' \\
       -d '{{"audio": "http://127.0.0.1:9000/song.mp3", "hook_url": "http://127.0.0.1:9000/hook"}}' \\
       {services.api_url}/generate

Ctrl-C stops it.
""",
        flush=True,
    )


def _status(_real_servers: bool) -> int:
    found = state.status(_STATE)
    print("not running" if found is None else f"running, process {found['pid']}")
    return ExitCode.OK if found else 3  # as systemctl and LSB scripts say it


def _stop(_real_servers: bool) -> int:
    print("stopped" if state.stop(_STATE) else "not running")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
