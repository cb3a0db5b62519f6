"""Logs: one event per line, in the same format for all loggers and threads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.service.logs import loggable_origin, loggable_url
from tests.pipeline.service.test_command_line import on_a_terminal

ROOT = Path(__file__).parents[3]
TASK = "6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11"

PREAMBLE = """
import logging, sys, threading, warnings
from config import LogFormat, LogSettings
from pipeline.service.logs import configure_logging, get_logger, log_context

settings = LogSettings(level=sys.argv[1], format=LogFormat(sys.argv[2]))
configure_logging("tester", settings)
log = get_logger("pipeline.somewhere")
"""


def lines(script: str, *, level: str = "INFO", form: str = "json", **variables: str) -> list[str]:
    """Run ``script`` in a process and return its lines on standard error; standard output must stay empty."""
    inherited = {name: value for name, value in os.environ.items() if not re.match("LOG_|(NO|FORCE)_COLOR", name)}
    run = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, level, form],
        cwd=ROOT,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == ""
    return run.stderr.splitlines()


def events(script: str, *, level: str = "INFO") -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(script, level=level)]


class TestJson:
    def test_event_is_one_line_with_its_fields(self) -> None:
        (event,) = events('log.info("job_settled", seconds=1.5, path="a\\nb", size=None)')
        assert event.pop("timestamp").endswith("Z")
        assert event == {
            "service": "tester",
            "event": "job_settled",
            "level": "info",
            "logger": "pipeline.somewhere",
            "seconds": 1.5,
            "path": "a\nb",
            "size": None,
        }

    def test_lines_in_a_log_context_carry_the_task(self) -> None:
        script = f"""
with log_context(task_uuid="{TASK}"):
    log.info("inside")
    logging.getLogger("boto3").warning("inside")
log.info("outside")
"""
        first, second, outside = events(script)
        assert first["task_uuid"] == second["task_uuid"] == TASK
        assert "task_uuid" not in outside

    def test_libraries_use_the_same_format(self) -> None:
        (event,) = events('logging.getLogger("boto3.client").warning("node %s is %s", 1, "gone")')
        assert (event["event"], event["level"], event["logger"]) == ("node 1 is gone", "warning", "boto3.client")
        assert (event["service"], "timestamp" in event) == ("tester", True)

    def test_warnings_use_the_same_format(self) -> None:
        (event,) = events('warnings.warn("old")')
        assert "old" in event["event"]
        assert event["logger"] == "py.warnings"

    def test_exception_is_part_of_its_line(self) -> None:
        script = """
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken", task_uuid="t")
    logging.getLogger("lib").exception("broken")
"""
        for event in events(script):
            assert (event["event"], event["level"]) == ("broken", "error")
            assert "ZeroDivisionError" in event["exception"]

    def test_other_threads_log_the_service(self) -> None:
        script = """
thread = threading.Thread(target=lambda: log.info("there"))
thread.start(); thread.join()
"""
        (event,) = events(script)
        assert event["service"] == "tester"

    def test_values_that_json_cannot_represent_are_converted(self) -> None:
        (event,) = events("log.info('odd', value={1, 2}, path=__import__('pathlib').Path('/x'))")
        assert "1" in event["value"]
        assert "/x" in event["path"]


class TestLevels:
    def test_lines_below_the_level_are_dropped(self) -> None:
        script = """
for logger in (log, logging.getLogger("lib")):
    logger.debug("debug"); logger.info("info"); logger.warning("warning")
"""
        assert [event["event"] for event in events(script, level="WARNING")] == ["warning"] * 2
        assert [event["event"] for event in events(script, level="DEBUG")] == ["debug", "info", "warning"] * 2

    @pytest.mark.parametrize("level", ["DEBUG", "INFO"])
    def test_verbose_libraries_log_only_warnings(self, level: str) -> None:
        script = 'logging.getLogger("boto3.s3").info("detail"); logging.getLogger("boto3.s3").warning("problem")'
        assert [event["event"] for event in events(script, level=level)] == ["problem"]

    def test_kafka_client_is_silenced(self) -> None:
        """kafka-python repeats ten times a second what the transport logs once."""
        assert lines('logging.getLogger("kafka.net").error("no broker")', level="DEBUG") == []


class TestReconfiguration:
    def test_second_configuration_duplicates_no_line(self) -> None:
        script = """
configure_logging("tester", settings)
log.info("once")
configure_logging("renamed", settings)
log.info("twice")
logging.getLogger("lib").info("library")
"""
        seen = [(event["event"], event["service"]) for event in events(script)]
        assert seen == [("once", "tester"), ("twice", "renamed"), ("library", "renamed")]


class TestConsole:
    def test_tracebacks_show_no_local_variables(self) -> None:
        script = """
def fail(password):
    raise ValueError("broken")
try:
    fail("hunter2")
except ValueError:
    log.exception("failed")
"""
        shown = "\n".join(lines(script, form="console"))
        assert "ValueError: broken" in shown
        assert "hunter2" not in shown.replace('fail("hunter2")', "")

    def test_console_format_has_the_same_fields_and_no_colours_in_a_file(self) -> None:
        (line,) = lines('log.info("job_settled", seconds=1.5)', form="console")
        assert "job_settled" in line
        assert "seconds=1.5" in line
        assert "\x1b" not in line


#: Logs one line with the default settings.
ONE_LINE = """
from config import LogSettings
from pipeline.service.logs import configure_logging, get_logger
configure_logging("tester", LogSettings())
get_logger("pipeline.somewhere").info("job_settled", seconds=1.5)
"""


class TestColours:
    """Colours are for terminals; see https://no-color.org."""

    @pytest.mark.parametrize(
        ("variables", "coloured"),
        [
            ({}, True),
            ({"NO_COLOR": ""}, True),
            ({"NO_COLOR": "1"}, False),
            ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
            ({"TERM": "dumb"}, False),
        ],
    )
    def test_on_a_terminal_lines_are_for_people(self, variables: dict[str, str], coloured: bool) -> None:
        shown = on_a_terminal(ONE_LINE, **variables)
        assert "job_settled" in shown
        assert not shown.startswith("{")
        assert ("\x1b[" in shown) == coloured

    @pytest.mark.parametrize(("variables", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
    def test_in_a_pipe(self, variables: dict[str, str], coloured: bool) -> None:
        (line,) = lines('log.info("job_settled")', form="console", **variables)
        assert ("\x1b[" in line) == coloured


class TestLoggableUrls:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://h/p?X-Amz-Signature=hunter2#f", "https://h/p"),
            ("https://user:hunter2@h:8443/p", "https://h:8443/p"),
            ("https://hunter2@h", "https://h"),
            ("http://[::1]:80/p?hunter2", "http://[::1]:80/p"),
            ("http://[hunter2", "<malformed URL>"),
            ("http://h:hunter2/", "<malformed URL>"),
        ],
    )
    def test_possible_secrets_are_removed(self, url: str, shown: str) -> None:
        assert loggable_url(url) == shown

    @given(st.text())
    def test_any_text_is_accepted(self, url: str) -> None:
        assert "?" not in loggable_url(f"http://h/{url.replace('#', '')}?{url}").partition("//")[2]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.example.com/services/T0/secret?x=1", "https://hooks.example.com"),
        ("http://user:secret@[::1]:8080/secret", "http://[::1]:8080"),
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("http://[secret", "<malformed URL>"),
    ],
)
def test_webhook_url_is_reduced_to_its_origin(url: str, shown: str) -> None:
    assert loggable_origin(url) == shown
