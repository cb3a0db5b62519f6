"""python -m benchmarks.gpu [--networks mdx32 bs] [--quick] [--device cpu] [--write PAGE]: see the package."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.download.sandbox import ROOT
from benchmarks.gpu.figures import Figures, Spec
from benchmarks.gpu.networks import NETWORKS, BenchmarkNetwork
from benchmarks.gpu.report import BEGIN, END, Results, gpu_page
from benchmarks.gpu.variants import REFERENCE, Variant, variants
from benchmarks.page import deliver
from demo.song import render_song
from pipeline.service.shutdown import ExitCode

NO_GPU = "There is no GPU here that torch can use, so nothing was measured."

#: What a worker may take before it counts as hung, s: to compile the largest network takes minutes.
PATIENCE = 1800.0

#: A song that networks of full size separate on a CPU within an hour or so, s.
LONGEST_ON_CPU = 12.0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    names = [network.name for network in NETWORKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="The report goes to stdout.")
    parser.add_argument("--networks", nargs="+", choices=names, default=names, help="which; all if not given")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="which of them, beside fp32; all if not given")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for figures of precision")
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the song")
    parser.add_argument("--repeats", type=int, default=3, help="how many songs after the first one")
    parser.add_argument("--quick", action="store_true", help="small networks, a short song: does it work?")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the report between the marks in PAGE instead")
    arguments = parser.parse_args(given)
    if arguments.device == "cpu" and not arguments.quick and arguments.seconds > LONGEST_ON_CPU:
        parser.error(f"that takes days on a CPU: --device cpu is for --quick, or --seconds {LONGEST_ON_CPU:g} at most")
    return arguments


def main(given: Sequence[str] | None = None) -> ExitCode:
    """UNAVAILABLE if there is no GPU; what else goes wrong is raised, or stands in the report."""
    arguments = _arguments(given)
    if arguments.device == "cuda" and not _has_gpu():
        sys.stderr.write(f"{NO_GPU}\n")
        return ExitCode.UNAVAILABLE
    seconds, repeats = (6.0, 1) if arguments.quick else (arguments.seconds, arguments.repeats)
    chosen = [network for network in NETWORKS if network.name in arguments.networks]
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        song = _song(Path(folder) / "song.wav", seconds)
        rows = [(network, _results(network, song, repeats, arguments)) for network in chosen]
    deliver(gpu_page(rows, seconds, quick=arguments.quick), arguments.write, BEGIN, END)
    return ExitCode.OK


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _song(path: Path, seconds: float) -> Path:
    """At peak 1.0, as the engine gets it."""
    mixture = render_song(seconds=seconds).mixture
    soundfile.write(path, (mixture / np.abs(mixture).max()).T, 44100, subtype="FLOAT")
    return path


def _results(network: BenchmarkNetwork, song: Path, repeats: int, arguments: argparse.Namespace) -> Results:
    folder = song.parent / network.name
    model = (network.small if arguments.quick else network.full)(folder / "models")
    results: Results = {}
    for variant in variants(network):
        if variant == REFERENCE or not arguments.variants or variant.name in arguments.variants:
            own = folder / variant.name
            own.mkdir()
            spec = Spec(
                models=str(folder / "models"),
                model=model,
                variant=variant.name,
                precision=variant.precision,
                compile=variant.compile,
                song=str(song),
                folder=str(own),
                repeats=repeats,
                reference=None if variant == REFERENCE else str(folder / REFERENCE.name),
            )
            results[variant.name] = variant, _worked(spec, variant, arguments.device)
    return results


def _worked(spec: Spec, variant: Variant, device: str) -> Figures | str:
    """The figures, or in a few words why there are none; what the worker said is on the terminal."""
    sys.stderr.write(f"{Path(spec.models).parent.name}: {variant.name}\n")
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    command = (sys.executable, "-m", "benchmarks.gpu.worker", json.dumps(asdict(spec)))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
        )
    except subprocess.TimeoutExpired:
        return f"not done after {PATIENCE:g} s"
    except subprocess.CalledProcessError as error:
        return f"ended with status {error.returncode}"
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
