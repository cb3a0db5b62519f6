"""The messages between the services: round trips, tolerance, rejection of invalid messages."""

from __future__ import annotations

import json
import uuid
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pipeline.errors import ErrorCode, ErrorKind, PermanentError, PipelineError, TransientError
from pipeline.messages import (
    Failure,
    OutputFormat,
    SeparationResult,
    SeparationTask,
    StemFile,
    TaskEvent,
    TaskMessage,
    TaskState,
    from_message,
    to_message,
)
from pipeline.model_choice import Algorithm, Ensemble
from pipeline.stem_name import stem_segment
from pipeline.transport.protocol import Message

TASK = uuid.UUID("6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11")

finite = st.floats(allow_nan=False, allow_infinity=False)
stem_names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
metadata = st.none() | st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | finite | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
ensembles = st.builds(
    Ensemble,
    ensemble=st.lists(st.sampled_from(["a.onnx", "b.ckpt", "c (2).yaml", "d"]), min_size=2, unique=True).map(tuple),
    algorithm=st.sampled_from(Algorithm),
)
tasks = st.builds(
    SeparationTask,
    task_uuid=st.uuids(),
    audio=st.text(),
    hook_url=st.text(),
    model=st.none() | st.just("UVR-MDX-NET-Inst_HQ_4.onnx") | ensembles,
    stems=st.none() | st.lists(stem_names, max_size=3).map(tuple),
    output_format=st.sampled_from(OutputFormat),
    metadata=metadata,
    submitted_at=finite,
)
stems = st.builds(
    StemFile,
    name=stem_names,
    key=st.text(),
    sha256=st.text(),
    bytes=st.integers(0),
    duration=finite,
    sample_rate=st.integers(1),
    channels=st.integers(1, 8),
    peak=finite,
)
failures = st.builds(
    Failure,
    code=st.sampled_from(ErrorCode),
    kind=st.sampled_from(ErrorKind),
    message=st.text(),
    retryable=st.booleans(),
)
results = st.builds(
    SeparationResult,
    task_uuid=st.uuids(),
    task=tasks,
    status=st.sampled_from(["success", "failed"]),
    stems=st.lists(stems, max_size=2).map(tuple),
    timings=st.dictionaries(st.text(), finite, max_size=2),
    degraded=st.lists(st.text(), max_size=2).map(tuple),
    error=st.none() | failures,
    finished_at=finite,
)
events = st.builds(
    TaskEvent,
    task_uuid=st.uuids(),
    status=st.sampled_from(TaskState),
    progress=st.floats(0, 1),
    message=st.none() | st.text(),
    at=finite,
)


def task(**changes: Any) -> dict[str, Any]:
    return {"task_uuid": str(TASK), "audio": "https://a/song", "hook_url": "https://b/hook", **changes}


def message(body: Any) -> Message:
    return Message("t", "k", body if isinstance(body, bytes) else json.dumps(body).encode())


class TestRoundTrip:
    @given(tasks | results | events)
    def test_decoding_reverses_encoding(self, body: TaskMessage) -> None:
        sent = to_message("topic", body)
        assert from_message(type(body), sent) == body

    @given(tasks | results | events)
    def test_key_is_the_task(self, body: TaskMessage) -> None:
        sent = to_message("topic", body)
        assert (sent.topic, sent.key) == ("topic", str(body.task_uuid))

    @given(tasks)
    def test_failed_result_has_the_reason_and_the_task(self, body: SeparationTask) -> None:
        error = TransientError("the source does not answer", code=ErrorCode.SOURCE_UNAVAILABLE)
        failed = SeparationResult.failed(body, error)
        assert (failed.task_uuid, failed.task) == (body.task_uuid, body)
        assert failed.error == Failure(code=error.code, kind=ErrorKind.TRANSIENT, message=error.message, retryable=True)


class TestTolerance:
    def test_unknown_fields_are_ignored(self) -> None:
        read = from_message(SeparationTask, message(task(novelty=5, nested={"new": [1]})))
        assert read == SeparationTask(**task(submitted_at=read.submitted_at))

    def test_missing_fields_have_defaults(self) -> None:
        read = from_message(SeparationTask, message(task()))
        assert (read.model, read.stems, read.output_format, read.metadata) == (None, None, OutputFormat.WAV, None)
        assert (read.priority, read.separations, read.left_behind, read.run) == (3, 1, (), "")


class TestEnsembles:
    def test_missing_fields_of_an_ensemble_have_defaults(self) -> None:
        read = from_message(SeparationTask, message(task(model={"ensemble": ["a.onnx", "b.ckpt"], "new": 1})))
        assert read.model == Ensemble(ensemble=("a.onnx", "b.ckpt"), algorithm=Algorithm.AVG_WAVE, weights=None)

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({}, "avg_wave: a.onnx, b (2).ckpt"),
            ({"algorithm": "uvr_max_spec"}, "uvr_max_spec: a.onnx, b (2).ckpt"),
            ({"algorithm": "avg_fft", "weights": (1.0, 0.25)}, "avg_fft: a.onnx*1, b (2).ckpt*0.25"),
        ],
    )
    def test_ensemble_is_formatted_in_one_line(self, fields: dict[str, Any], line: str) -> None:
        assert str(Ensemble(ensemble=("a.onnx", "b (2).ckpt"), **fields)) == line

    @pytest.mark.parametrize(
        ("model", "where"),
        [
            ({}, "model.ensemble.ensemble"),
            ({"ensemble": ["a.onnx", "../hunter2"]}, r"model\.ensemble\.ensemble\.1"),
            ({"ensemble": ["a.onnx", "b"], "algorithm": "hunter2"}, "model.ensemble.algorithm"),
            ({"ensemble": ["a.onnx", "b"], "weights": [1, 0]}, r"model\.ensemble\.weights\.1"),
            ({"ensemble": ["a.onnx", "b"], "weights": [1, 1, 1]}, "model.ensemble"),
            ({"ensemble": ["a.onnx", "a.onnx"]}, "model.ensemble.ensemble"),
        ],
    )
    def test_invalid_ensemble_is_rejected(self, model: dict[str, Any], where: str) -> None:
        with pytest.raises(PermanentError, match=f"not a valid SeparationTask: {where}") as caught:
            from_message(SeparationTask, message(task(model=model)))
        assert "hunter2" not in caught.value.message


class TestUnparsable:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff\xfe\x00",
            b"hunter2",
            b"[" * 100_000,
            b'{"task_uuid": "hunter2", "audio": "hunter2", "hook_url": 1}',
            b"null",
            b'["hunter2"]',
            task(task_uuid="hunter2"),
            task(audio=["hunter2"]),
            task(output_format="hunter2"),
            task(metadata=["hunter2"]),
            {"task_uuid": str(TASK)},
        ],
    )
    def test_invalid_message_is_rejected_without_quoting_it(self, body: Any) -> None:
        with pytest.raises(PermanentError) as caught:
            from_message(SeparationTask, message(body))
        assert caught.value.code is ErrorCode.MESSAGE_INVALID
        assert "hunter2" not in caught.value.message
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_invalid_fields_are_named(self) -> None:
        with pytest.raises(PermanentError, match="audio; hook_url"):
            from_message(SeparationTask, message({"task_uuid": str(TASK)}))

    @given(st.binary())
    def test_arbitrary_bytes_are_rejected(self, body: bytes) -> None:
        with pytest.raises(PermanentError):
            from_message(SeparationTask, message(body))


class TestNames:
    """Names of stems and models become part of keys and file names."""

    @given(st.text(max_size=80))
    def test_stem_name_is_never_a_path(self, name: str) -> None:
        check_harmless(StemNamed, name)

    @pytest.mark.parametrize("name", ["人声", "伴奏", "вокал", "أصوات", "गायन", "ボーカル", "chœur_2"])
    def test_stem_names_of_any_script_are_accepted(self, name: str) -> None:
        sent = SeparationTask(**task(stems=[name]))
        assert from_message(SeparationTask, to_message("tasks", sent)).stems == (name,)

    @pytest.mark.parametrize("name", ["Vocals", "ＶＯＣＡＬＳ", "ｖocals", "É", "人 声", "人声。", "🎤", "a\u202eb"])
    def test_stem_names_that_are_not_normalised_are_rejected(self, name: str) -> None:
        with pytest.raises(ValidationError):
            SeparationTask(**task(stems=[name]))

    @given(st.text(max_size=140))
    def test_model_name_is_never_a_path(self, name: str) -> None:
        check_harmless(ModelNamed, name)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a\0b", "a\n", "-rf", "\u0301"]
    )
    def test_dangerous_names_are_rejected(self, name: str) -> None:
        with pytest.raises(ValidationError):
            SeparationTask(**task(model=name))
        with pytest.raises(ValidationError):
            SeparationTask(**task(stems=[name]))


class StemNamed(BaseModel):
    name: Any

    def model_post_init(self, _context: Any) -> None:
        SeparationTask(**task(stems=[self.name]))


class ModelNamed(BaseModel):
    name: Any

    def model_post_init(self, _context: Any) -> None:
        SeparationTask(**task(model=self.name))


def check_harmless(model: type[BaseModel], name: str) -> None:
    """Check that the name is either rejected or a plain file name."""
    try:
        model(name=name)
    except ValidationError:
        return
    assert PurePosixPath(name).parts == (name,)
    assert stem_segment(name).isascii()
    assert name.isprintable()
    assert not name.startswith((".", "-"))


class TestEvents:
    @pytest.mark.parametrize("progress", [-0.1, 1.1])
    def test_progress_is_between_0_and_1(self, progress: float) -> None:
        with pytest.raises(ValidationError):
            TaskEvent(task_uuid=TASK, status=TaskState.SEPARATING, progress=progress)


@pytest.mark.parametrize("kind", PipelineError.__subclasses__())
def test_only_permanent_failures_are_not_retryable(kind: type[PipelineError]) -> None:
    failure = Failure.from_error(kind("why", code=ErrorCode.INTERNAL))
    assert failure.retryable is (kind is not PermanentError)
