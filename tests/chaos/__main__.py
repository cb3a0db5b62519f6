"""``python -m tests.chaos --seed N --minutes M``: faults for M minutes while jobs flow, and then the reckoning.

The status is 0 if the ledger holds, 1 if it does not, 2 if the run could not be made.
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
from devstack.tools import tools_folder
from tests.chaos.audit import problems
from tests.chaos.disk import in_namespace
from tests.chaos.ledger import Command, Entry, Ledger, read
from tests.chaos.report import page
from tests.chaos.run import Run
from tests.chaos.schedule import Schedule, plan
from tests.chaos.settings import quick
from tests.chaos.system import Place

_MODULE = "tests.chaos"


def main() -> int:
    """See the module."""
    options = _options()
    schedule = plan(options.seed, options.minutes, faults_per_minute=options.faults, jobs_per_minute=options.jobs)
    if options.schedule:
        _say(*schedule.lines())
        return 0
    if options.examine:
        return _report(read(options.examine), options.report)
    no_small_disk = in_namespace(_MODULE, sys.argv[1:])
    if no_small_disk:
        _say(f"No small disk can be mounted, so no disk will be full: {no_small_disk}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(schedule, options, folder, small_disks=no_small_disk is None)
    except (DevstackError, TimeoutError) as error:
        _say(f"The run could not be made: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _run(schedule: Schedule, options: argparse.Namespace, folder: Path, *, small_disks: bool) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedule.jsonl").write_text("\n".join(schedule.lines()) + "\n", encoding="utf-8")
    _say(f"seed {schedule.seed}, schedule {schedule.digest}: {len(schedule.faults)} faults, {len(schedule.jobs)} jobs")
    _say(f"ledger, schedule and logs are in {folder}")
    special = quick(options.crashes)
    line = shlex.join(["python", "-m", _MODULE, *sys.argv[1:]])
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.add(
            Command(line=line, seed=schedule.seed, digest=schedule.digest, minutes=options.minutes, settings=special)
        )
        place = Place(folder / "system", tools_folder(LOCAL / "tools"), special, small_disks)
        Run(place, ledger, _say).carry_out(schedule, drain=options.drain)
        return _report(ledger.entries, options.report or folder / "report.md")


def _report(entries: Sequence[Entry], file: Path | None) -> int:
    report = page(entries)
    _say(report)
    if file is not None:
        file.write_text(report + "\n", encoding="utf-8")
    return 1 if problems(entries) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the schedule of faults and jobs")
    parser.add_argument("--minutes", type=float, default=2.0, help="for how long faults are made")
    parser.add_argument("--faults", type=float, default=18.0, metavar="N", help="faults a minute")
    parser.add_argument("--jobs", type=float, default=20.0, metavar="N", help="jobs a minute")
    parser.add_argument("--drain", type=float, default=240.0, metavar="S", help="longest wait for the last jobs, s")
    parser.add_argument("--crashes", type=int, default=6, metavar="N", help="MAX_CRASHES: what poison takes down")
    parser.add_argument("--folder", type=Path, help="where ledger, logs and data are kept: a new one")
    parser.add_argument("--report", type=Path, help="where the report is written as well as to standard output")
    parser.add_argument("--examine", type=Path, metavar="LEDGER", help="report on a run that was made, and do nothing")
    parser.add_argument("--schedule", action="store_true", help="print the schedule, and do nothing")
    return parser.parse_args()


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
