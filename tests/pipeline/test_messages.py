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

from pipeline.errors import DeferredError, ErrorCode, ErrorKind, PermanentError, PipelineError, TransientError
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
    unread_failure,
)
from pipeline.model_choice import Algorithm, Ensemble
from pipeline.stem_name import stem_segment
from pipeline.transport.protocol import Message

TASK = uuid.UUID("6f1c3e0a-8a55-4c43-a8f0-0a4a3e3f0d11")

UNREADABLE = PermanentError("the message is not valid", code=ErrorCode.MESSAGE_INVALID)

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
    sample_rate=st.sampled_from(["source", 44_100, 48_000]),
    metadata=metadata,
    submitted_at=finite,
)
stems = st.builds(
    StemFile,
    name=stem_names,
    key=st.text(),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
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
    lambda task, **fields: SeparationResult(task_uuid=task.task_uuid, task=task, **fields),
    task=tasks,
    status=st.sampled_from(["success", "failed"]),
    stems=st.lists(stems, max_size=2, unique_by=lambda stem: stem.name).map(tuple),
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
    return Message("t", str(TASK), body if isinstance(body, bytes) else json.dumps(body).encode())


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
    def test_missing_fields_have_defaults(self) -> None:
        read = from_message(SeparationTask, message(task()))
        assert (read.model, read.stems, read.output_format, read.metadata) == (None, None, OutputFormat.WAV, None)
        assert (read.priority, read.separations, read.left_behind, read.run) == (3, 1, (), "")


class TestNewerWriters:
    """A reader of this version meets messages of a version that has not been written yet."""

    def test_unknown_fields_are_passed_on(self) -> None:
        new = {"novelty": 5, "nested": {"new": [1]}}
        read = from_message(SeparationTask, message(task(**new)))
        again = read.model_copy(update={"separations": 2})
        result = SeparationResult.failed(again, TransientError("503", code=ErrorCode.SOURCE_UNAVAILABLE))
        sent = json.loads(to_message("t", result).value)["task"]
        assert {name: sent[name] for name in new} == new
        assert (sent["separations"], sent["version"]) == (2, 1)

    @pytest.mark.parametrize("status", ["reviewing", "success"])
    def test_values_that_are_only_passed_on_need_not_be_known(self, status: str) -> None:
        error = {"code": "source_is_haunted", "kind": "spectral", "message": "boo", "retryable": True}
        result = {"task_uuid": str(TASK), "task": task(), "status": "failed", "error": error}
        read = from_message(SeparationResult, message(result)).error
        assert read is not None
        assert read.model_dump() == error
        event = {"task_uuid": str(TASK), "status": status}
        assert from_message(TaskEvent, message(event)).status == status

    @pytest.mark.parametrize(
        ("model", "body"),
        [
            (SeparationTask, task(output_format="wav64")),
            (SeparationTask, task(version=2)),
            (SeparationTask, task(version=2, audio={"channels": ["https://a/left", "https://a/right"]})),
            (SeparationTask, task(model={"ensemble": ["a", "b"], "algorithm": "by_taste"})),
            (SeparationResult, {"task_uuid": str(TASK), "task": task(), "status": "partial"}),
            (SeparationResult, {"task_uuid": str(TASK), "task": task(output_format="wav64"), "status": "success"}),
            (SeparationResult, {"task_uuid": str(TASK), "task": task(version=2), "status": "success"}),
        ],
    )
    def test_message_that_a_newer_version_can_read_is_deferred(self, model: type[TaskMessage], body: Any) -> None:
        with pytest.raises(DeferredError) as caught:
            from_message(model, message(body))
        assert caught.value.code is ErrorCode.MESSAGE_NEWER

    @pytest.mark.parametrize("body", [task(output_format="wav64", audio=5), task(version=0), task(version="new")])
    def test_invalid_message_is_not_taken_for_a_newer_one(self, body: Any) -> None:
        with pytest.raises(PermanentError):
            from_message(SeparationTask, message(body))


class TestDisagreement:
    """Messages that contradict themselves, as an attacker with access to a topic may write them."""

    OTHER = str(uuid.uuid4())

    def test_key_is_the_task(self) -> None:
        with pytest.raises(PermanentError, match="the key is not task_uuid"):
            from_message(SeparationTask, Message("t", self.OTHER, json.dumps(task()).encode()))

    @pytest.mark.parametrize("ids", [(OTHER, str(TASK)), (str(TASK), OTHER)])
    def test_result_is_about_the_task_that_it_holds(self, ids: tuple[str, str]) -> None:
        body = {"task_uuid": ids[0], "task": task(task_uuid=ids[1]), "status": "success"}
        with pytest.raises(PermanentError):
            from_message(SeparationResult, message(body))
        assert unread_failure("t", message(body), UNREADABLE) is None

    def test_stems_have_different_names(self) -> None:
        stem = {"name": "vocals", "key": "", "sha256": "0" * 64, "bytes": 1, "duration": 1, "sample_rate": 1}
        stem |= {"channels": 1, "peak": 1}
        body = {"task_uuid": str(TASK), "task": task(), "status": "success", "stems": [stem, stem]}
        with pytest.raises(PermanentError):
            from_message(SeparationResult, message(body))


class TestNumbers:
    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    @pytest.mark.parametrize(
        "field", ['"submitted_at": %s', '"metadata": {"a": [%s]}', '"novelty": %s', '"model": {"weights": %s}']
    )
    def test_number_that_is_not_finite_is_unparsable(self, field: str, number: str) -> None:
        body = json.dumps(task())[:-1] + ", " + field % number + "}"
        with pytest.raises(PermanentError) as caught:
            from_message(SeparationTask, message(body.encode()))
        assert caught.value.code is ErrorCode.MESSAGE_INVALID

    def test_failure_of_a_message_with_such_a_number_is_not_reported(self) -> None:
        body = json.dumps(task(metadata={"a": float("nan")}))
        assert unread_failure("t", message(body.encode()), UNREADABLE) is None


class TestEnvelope:
    """The client of a message whose body cannot be read receives a failure, if the envelope can be read."""

    @pytest.mark.parametrize(
        "body",
        [
            task(priority="urgent", metadata={"order": 17}, run="r0-1"),
            {"task_uuid": str(TASK), "task": task(metadata={"order": 17}, run="r0-1"), "status": 5},
            {"task_uuid": str(TASK), "task": task(stems=5, metadata={"order": 17}, run="r0-1"), "stems": "all"},
        ],
    )
    def test_failed_result_is_for_the_task_and_its_client(self, body: Any) -> None:
        sent = unread_failure("results", message(body), UNREADABLE)
        assert sent is not None
        result = from_message(SeparationResult, sent)
        assert (sent.topic, result.status, result.task_uuid) == ("results", "failed", TASK)
        assert (result.task.hook_url, result.task.metadata, result.task.run) == (
            "https://b/hook",
            {"order": 17},
            "r0-1",
        )
        assert result.error is not None
        assert result.error.code is ErrorCode.MESSAGE_INVALID

    def test_metadata_that_cannot_be_echoed_is_left_out(self) -> None:
        sent = unread_failure("results", message(task(priority=9, metadata={"a": "\ud800"})), UNREADABLE)
        assert sent is not None
        assert from_message(SeparationResult, sent).task.metadata is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff",
            b"[" * 100_000,
            b"null",
            b"[1]",
            {},
            {"task_uuid": str(TASK)},
            task(task_uuid="x"),
            task(hook_url=5),
        ],
    )
    def test_unreadable_envelope_gives_none(self, body: Any) -> None:
        assert unread_failure("results", message(body), UNREADABLE) is None

    @given(st.binary())
    def test_arbitrary_bytes_give_none(self, body: bytes) -> None:
        assert unread_failure("results", message(body), UNREADABLE) is None


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


@pytest.mark.parametrize("kind", [*PipelineError.__subclasses__(), DeferredError])
def test_only_permanent_failures_are_not_retryable(kind: type[PipelineError]) -> None:
    failure = Failure.from_error(kind("why", code=ErrorCode.INTERNAL))
    assert failure.retryable is (kind is not PermanentError)


def test_messages_of_older_services_are_read() -> None:
    """They have neither a wanted rate nor the properties of the source."""
    task = {"task_uuid": str(TASK), "audio": "http://a/song", "hook_url": "http://b/hook", "output_format": "flac"}
    result = {"task_uuid": str(TASK), "task": task, "status": "success", "stems": []}
    read = from_message(SeparationResult, Message("results", str(TASK), json.dumps(result).encode()))
    assert (read.task.output_format, read.task.sample_rate, read.source) == (OutputFormat.FLAC, "source", None)
