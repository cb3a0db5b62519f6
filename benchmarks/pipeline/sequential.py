"""Run jobs one after the other, as the simplest program does, with a loaded model.

    python -m benchmarks.pipeline.sequential MODEL_DIR FOLDER BUCKET [ENDPOINT_URL]

reads one job per line of JSON (``task``, ``audio``, ``hook_url``, ``model``): download, separate, upload, webhook. For
each it prints the duration of the separation, s. Engine, decoder and encoder are those of the services.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import boto3
import requests

from benchmarks.engines import offline_engine
from config import LogSettings
from pipeline.cancellation import CancelToken
from pipeline.service.logs import configure_logging
from processor.audio.decode import decode
from processor.ipc import Separate
from uploader.encode import common_gain, encode

CHUNK = 1024**2


def main(model_dir: str, folder: str, bucket: str, endpoint_url: str | None = None) -> None:
    """Run jobs until the input ends."""
    configure_logging("sequential", LogSettings(level="WARNING"))  # to standard error: results go to standard output
    work = Path(folder)
    engine, store = offline_engine(Path(model_dir), work), boto3.client("s3", endpoint_url=endpoint_url)
    for line in sys.stdin:
        job = json.loads(line)
        with requests.get(job["audio"], stream=True, timeout=60) as answer, (work / "source").open("wb") as source:
            answer.raise_for_status()
            for chunk in answer.iter_content(CHUNK):
                source.write(chunk)
        mixture = decode(work / "source", work, max_seconds=3600.0, cancel=CancelToken())
        started = time.monotonic()
        order = Separate(1, mixture.path, mixture.peak, mixture.frames, work, job["model"], None)
        stems = engine.separate(order, lambda _fraction: None)
        busy = time.monotonic() - started
        gain = common_gain((stem.peak for stem in stems), bits=16)
        for stem in stems:
            encode(stem.path, work / "stem.wav", "wav", gain=gain)
            store.upload_file(str(work / "stem.wav"), bucket, f"sequential/{job['task']}/{stem.name}.wav")
        body = {"task_uuid": job["task"], "status": "success"}
        requests.post(job["hook_url"], json=body, timeout=60).raise_for_status()
        sys.stdout.write(f"{json.dumps(busy)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
