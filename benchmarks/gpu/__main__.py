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

#: Time limit of a worker, s. To compile the largest network takes minutes.
WORKER_TIMEOUT = 1800.0

#: Maximum length of a song that networks of full size separate on a CPU in about an hour, s.
MAX_CPU_SECONDS = 12.0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    names = [network.name for network in NETWORKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="The report goes to stdout.")
    parser.add_argument("--networks", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="besides fp32; default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for figures of precision")
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the song")
    parser.add_argument("--repeats", type=int, default=3, help="runs after the first one")
    parser.add_argument("--quick", action="store_true", help="small networks, a short song: a smoke test")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="insert the report into PAGE instead")
    arguments = parser.parse_args(given)
    if arguments.device == "cpu" and not arguments.quick and arguments.seconds > MAX_CPU_SECONDS:
        parser.error(f"that takes days on a CPU: --device cpu is for --quick, or --seconds {MAX_CPU_SECONDS:g} at most")
    return arguments


def main(given: Sequence[str] | None = None) -> ExitCode:
    """Run the benchmark. Returns UNAVAILABLE without a GPU. Other errors are raised or written into the report."""
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
    """Write a song at peak 1.0, as the engine receives it."""
    mixture = render_song(seconds=seconds).mixture
    soundfile.write(path, (mixture / np.abs(mixture).max()).T, 44100, subtype="FLOAT")
    return path


def _results(network: BenchmarkNetwork, song: Path, repeats: int, arguments: argparse.Namespace) -> Results:
    folder = song.parent / network.name
    model = (network.small if arguments.quick else network.full)(folder / "models")
    results: Results = {}
    for variant in variants(network):
        if variant == REFERENCE or not arguments.variants or variant.name in arguments.variants:
            variant_folder = folder / variant.name
            variant_folder.mkdir()
            spec = Spec(
                models=str(folder / "models"),
                model=model,
                variant=variant.name,
                precision=variant.precision,
                compile=variant.compile,
                song=str(song),
                folder=str(variant_folder),
                repeats=repeats,
                reference=None if variant == REFERENCE else str(folder / REFERENCE.name),
            )
            results[variant.name] = variant, _run_worker(spec, variant, arguments.device)
    return results


def _run_worker(spec: Spec, variant: Variant, device: str) -> Figures | str:
    """Return the figures, or a short error. The worker's standard error goes to the terminal."""
    sys.stderr.write(f"{Path(spec.models).parent.name}: {variant.name}\n")
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    command = (sys.executable, "-m", "benchmarks.gpu.worker", json.dumps(asdict(spec)))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=WORKER_TIMEOUT, check=True
        )
    except subprocess.TimeoutExpired:
        return f"not done after {WORKER_TIMEOUT:g} s"
    except subprocess.CalledProcessError as error:
        return f"ended with status {error.returncode}"
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
