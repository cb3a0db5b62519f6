"""``POST /generate``: accepted requests, and the error sentences of refused ones."""

from __future__ import annotations

import json
import socket
from typing import Any
from uuid import UUID

import pytest

from api.models import MAX_METADATA_BYTES
from pipeline.errors import ErrorCode, PermanentError
from pipeline.messages import OutputFormat, SeparationResult, SeparationTask, TaskState, from_message, to_message
from pipeline.model_choice import Algorithm, Ensemble
from pipeline.transport.embedded.transport import EmbeddedTransport
from tests.api.conftest import MAX_REQUEST_BYTES, Service
from tests.api.http_client import DEADLINE, Client

Job = dict[str, Any]


def test_the_response_to_an_accepted_job(service: Service, job: Job) -> None:
    answer = service.client.post(job)

    assert answer.status == 202
    task_uuid = answer.json["task_uuid"]
    assert answer.json == {
        "message": "Task has been queued for processing",
        "status": "queued",
        "task_uuid": task_uuid,
    }
    assert UUID(task_uuid).version == 4
    assert str(UUID(task_uuid)) == task_uuid


def test_the_queued_task_has_the_requested_options(service: Service, job: Job) -> None:
    options = {
        "model": "UVR-MDX-NET-Voc_FT.onnx",
        "stems": ["vocals", "instrumental"],
        "output_format": "flac24",
        "sample_rate": 44100,
        "priority": 2,
        "metadata": {"album": 7, "nested": {"käse": [1, 2.5, None, True]}},
    }

    answer = service.client.post({**job, **options})

    (task,) = service.queued()
    assert str(task.task_uuid) == answer.json["task_uuid"]
    assert (task.audio, task.hook_url) == (job["audio"], job["hook_url"])
    assert task.model == options["model"]
    assert task.stems == ("vocals", "instrumental")
    assert task.output_format is OutputFormat.FLAC24
    assert task.sample_rate == 44100
    assert task.priority == 2
    assert task.metadata == options["metadata"]


def test_repeated_stem_names_are_merged(service: Service, job: Job) -> None:
    service.client.post({**job, "stems": ["vocals", "drums", "vocals"]})

    (task,) = service.queued()
    assert task.stems == ("vocals", "drums")


def test_defaults_without_options(service: Service, job: Job) -> None:
    service.client.post(job)
    nothing = dict.fromkeys(("model", "stems", "output_format", "sample_rate", "priority", "metadata"))
    service.client.post({**job, **nothing})

    tasks = service.queued()
    assert len(tasks) == 2
    for task in tasks:
        assert (task.model, task.stems, task.metadata) == (None, None, None)
        assert task.output_format is OutputFormat.WAV
        assert task.sample_rate == "source"
        assert task.priority == 3


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"format": "flac"}, "format is not a known field, did you mean output_format?"),
        ({"Model": "a.onnx"}, "Model is not a known field, did you mean model?"),
        ({"webhook_url": "x"}, "webhook_url is not a known field, did you mean hook_url?"),
        ({"xyzzy": None}, "xyzzy is not a known field, known are: audio, hook_url, model, stems, "),
        ({"x" * 5000: 1}, f"{'x' * 64} is not a known field"),
        (
            {"model": {"ensemble": ["a.onnx", "b.onnx"], "weight": [1, 2]}},
            "model.weight is not a known field, did you mean model.weights?",
        ),
        ({f"f{number}": 1 for number in range(1000)}, "f0 is not a known field"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(
    service: Service, job: Job, extra: Job, sentence: str
) -> None:
    answer = service.client.post({**job, **extra})

    assert answer.status == 422
    assert answer.json["error"].startswith(sentence)
    assert len(answer.body) < 5000
    assert service.queued() == []


@pytest.mark.parametrize(
    "preference", ["handling=lenient", "respond-async, Handling = lenient; x", 'handling="lenient"']
)
def test_unknown_fields_are_ignored_on_request(service: Service, job: Job, preference: str) -> None:
    extras = {"bitrate": -1, "callback": {"x": []}, "task_uuid": "mine", "submitted_at": 0, "separations": 2}

    answer = service.client.post({**job, **extras}, {"Prefer": preference})

    assert answer.status == 202
    assert answer.headers["preference-applied"] == "handling=lenient"
    (task,) = service.queued()
    assert str(task.task_uuid) == answer.json["task_uuid"] != "mine"
    assert task.submitted_at > 0
    assert task.separations == 1


def test_an_accepted_job_is_durable(service: Service, job: Job) -> None:
    answer = service.client.post(job)

    # A second connection to the same broker, as another process would use.
    elsewhere = EmbeddedTransport(service.settings.state.broker_file)
    try:
        subscription = elsewhere.subscribe([service.settings.kafka.task_topic], f"group-{answer.json['task_uuid']}")
        keys = []
        while (delivery := subscription.receive(0.0)) is not None:
            keys.append(delivery.message.key)
            subscription.settle(delivery)
    finally:
        elsewhere.close()
    assert answer.json["task_uuid"] in keys


def test_an_accepted_job_is_reported_as_an_event(service: Service, job: Job) -> None:
    answer = service.client.post(job)

    (event,) = service.reported()
    assert str(event.task_uuid) == answer.json["task_uuid"]
    assert event.status is TaskState.QUEUED


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", " application/json "],
)
def test_the_content_type_may_have_parameters(client: Client, job: Job, content_type: str) -> None:
    assert client.post(job, {"Content-Type": content_type}).status == 202


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "text/json",
        "multipart/form-data; boundary=x",
    ],
)
def test_another_content_type_is_refused(service: Service, job: Job, content_type: str | None) -> None:
    answer = service.client.post(job, {"Content-Type": content_type})

    assert (answer.status, answer.json["error"]) == (400, "Content-Type must be application/json")
    assert service.queued() == []


@pytest.mark.parametrize("preference", ["handling=strict", "handling=strict, handling=lenient", "lenient"])
def test_other_preferences_change_nothing(client: Client, job: Job, preference: str) -> None:
    answer = client.post({**job, "unknown": 1}, {"Prefer": preference})

    assert answer.status == 422
    assert "preference-applied" not in answer.headers


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"null", b"{}", b"[]", b" { } "])
def test_a_body_is_required(client: Client, body: bytes) -> None:
    answer = client.post(body)

    assert (answer.status, answer.json["error"]) == (400, "Request body is required")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"audio=https://cdn.example.com/song.mp3",
        b'{"audio": NaN}',
        b'{"audio": "\xff"}',
        b'{"audio": "\\ud800"}',
        b'{"a": 1} trailing',
        b"[" * 30_000,
        b'{"a":' * 5000,
        b"1" * 30_000,
    ],
)
def test_a_body_that_is_not_json_is_refused(client: Client, body: bytes) -> None:
    answer = client.post(body)

    assert (answer.status, answer.json["error"]) == (400, "Request body must be valid JSON")


@pytest.mark.parametrize("body", [b"[7]", b'"text"', b"1", b"0", b"true", b"false"])
def test_a_body_that_is_no_object_is_refused(client: Client, body: bytes) -> None:
    answer = client.post(body)

    assert (answer.status, answer.json["error"]) == (400, "Request body must be a JSON object")


@pytest.mark.parametrize("field", ["audio", "hook_url"])
@pytest.mark.parametrize("absent", ["missing", None, ""])
def test_both_urls_are_required(service: Service, job: Job, field: str, absent: str | None) -> None:
    if absent == "missing":
        del job[field]
    else:
        job[field] = absent

    answer = service.client.post(job)

    assert (answer.status, answer.json["error"]) == (400, f"{field} field is required")
    assert answer.json["details"]["field"] == field
    assert service.queued() == []


_NO_URLS = [
    "song.mp3",
    "/song.mp3",
    "//cdn.example.com/song.mp3",
    "ftp://cdn.example.com/song.mp3",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:audio/wav;base64,AAAA",
    "http://",
    "http:///song.mp3",
    "http://cdn.example.com:99999/",
    "http://user:password@cdn.example.com/",
    "http://cdn.example.com/a b",
    "http://cdn.example.com/\r\nX-Injected: 1",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://127.1/",
    " ",
    7,
    True,
    ["https://cdn.example.com/song.mp3"],
    {"url": "https://cdn.example.com/song.mp3"},
]
_FORBIDDEN_URLS = [
    "http://127.0.0.1/song.mp3",
    "http://localhost/song.mp3",
    "http://[::1]/song.mp3",
    "http://10.0.0.1/song.mp3",
    "http://192.168.1.1/song.mp3",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:127.0.0.1]/",
    "http://0.0.0.0/",
    "https://private.example.com/song.mp3",
    "https://metadata.example.com/",
    "https://cdn.example.com:22/",
]


@pytest.mark.parametrize("field", ["audio", "hook_url"])
@pytest.mark.parametrize("url", _NO_URLS, ids=str)
def test_an_invalid_url_is_refused(service: Service, job: Job, field: str, url: object) -> None:
    answer = service.client.post({**job, field: url})

    assert (answer.status, answer.json["error"]) == (400, f"{field} must be a valid HTTP(S) URL")
    assert answer.json["details"]["field"] == field
    assert service.queued() == []


@pytest.mark.parametrize("field", ["audio", "hook_url"])
@pytest.mark.parametrize("url", _FORBIDDEN_URLS)
def test_a_url_into_a_private_network_is_refused(service: Service, job: Job, field: str, url: str) -> None:
    answer = service.client.post({**job, field: url})

    assert answer.status == 403
    assert answer.json["error"].startswith(f"{field} is refused: ")
    assert answer.json["details"] == {"field": field, "code": "url_forbidden"}
    assert service.queued() == []


@pytest.mark.parametrize("field", ["audio", "hook_url"])
def test_a_private_name_is_answered_like_one_that_does_not_exist(client: Client, job: Job, field: str) -> None:
    private, unknown = (
        client.post({**job, field: f"https://{name}.example.com/"}) for name in ("private", "no-such-name")
    )

    assert private.status == 403
    assert (private.status, private.body) == (unknown.status, unknown.body)


def test_a_name_that_does_not_resolve_now_is_accepted(service: Service, job: Job) -> None:
    answer = service.client.post({**job, "audio": "https://later.example.com/song.mp3"})

    assert answer.status == 202
    assert len(service.queued()) == 1


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("model", "../../etc/passwd", "model must be the file name of a model"),
        ("model", "/models/a.onnx", "model must be the file name of a model"),
        ("model", "a\\b.onnx", "model must be the file name of a model"),
        ("model", ".hidden", "model must be the file name of a model"),
        ("model", "a.onnx\n", "model must be the file name of a model"),
        ("model", "x" * 129, "model must be the file name of a model"),
        ("model", "", "model must be the file name of a model"),
        ("model", 4, "model must be the file name of a model"),
        ("stems", "vocals", "stems must be a list of stem names"),
        ("stems", [], "stems must be a list of stem names"),
        ("stems", ["Vocals"], "stems must be a list of stem names"),
        ("stems", ["../vocals"], "stems must be a list of stem names"),
        ("stems", [None], "stems must be a list of stem names"),
        ("stems", ["vocals"] * 33, "stems must be a list of stem names"),
        ("output_format", "mp3", "output_format must be one of: wav, wav16, wav24, wav32f, flac, flac16, flac24"),
        ("output_format", "WAV", "output_format must be one of: wav, wav16, wav24, wav32f, flac, flac16, flac24"),
        ("output_format", 1, "output_format must be one of: wav, wav16, wav24, wav32f, flac, flac16, flac24"),
        ("sample_rate", 22050, "sample_rate must be one of: source, 44100, 48000"),
        ("sample_rate", "44100", "sample_rate must be one of: source, 44100, 48000"),
        ("sample_rate", "Source", "sample_rate must be one of: source, 44100, 48000"),
        ("sample_rate", [], "sample_rate must be one of: source, 44100, 48000"),
        ("priority", 0, "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", 6, "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", -(10**30), "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", 2.5, "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", "3", "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", True, "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("priority", [3], "priority must be a whole number from 1 (can wait) to 5 (urgent)"),
        ("metadata", "text", "metadata must be a JSON object of at most 16384 bytes"),
        ("metadata", ["a"], "metadata must be a JSON object of at most 16384 bytes"),
        ("metadata", {"a": "é" * (MAX_METADATA_BYTES // 2)}, "metadata must be a JSON object of at most 16384 bytes"),
    ],
)
def test_an_optional_value_out_of_range_is_refused(
    service: Service, job: Job, field: str, value: object, sentence: str
) -> None:
    answer = service.client.post({**job, field: value})

    assert answer.status == 422
    assert answer.json["error"].startswith(sentence)
    assert answer.json["details"]["field"] == field
    assert service.queued() == []


def test_metadata_with_a_number_beyond_json_is_refused(client: Client, job: Job) -> None:
    body = json.dumps({**job, "metadata": {"n": 0}}).replace('"n": 0', '"n": 1e999').encode()

    assert client.post(body).status == 422


@pytest.mark.parametrize("depth", [1, 100, *range(195, 201)])
@pytest.mark.parametrize("brackets", ['{"a":,}', "[,]"])
def test_accepted_metadata_can_be_read_by_every_service(service: Service, job: Job, depth: int, brackets: str) -> None:
    start, _, end = brackets.partition(",")
    nested = f'{{"a":{start * depth}1{end * depth}}}'
    body = json.dumps({**job, "metadata": {}}).replace("{}", nested).encode()

    answer = service.client.post(body)

    messages = service.tasks.drain()
    assert (answer.status, len(messages)) in ((202, 1), (422, 0), (400, 0))
    assert answer.status == 202 or depth > 150
    for message in messages:
        task = from_message(SeparationTask, message)
        result = SeparationResult.failed(task, PermanentError("no", code=ErrorCode.NOT_AUDIO))
        assert from_message(SeparationResult, to_message("results", result)).task.metadata == json.loads(nested)


def test_metadata_that_is_nested_too_deeply_is_named(client: Client, job: Job) -> None:
    body = json.dumps({**job, "metadata": {}}).replace("{}", '{"a":' * 199 + "1" + "}" * 199).encode()

    answer = client.post(body)

    assert answer.json["error"] == "metadata is nested too deeply"
    assert (answer.status, answer.json["details"]["field"]) == (422, "metadata")


@pytest.mark.parametrize("model", ["vocal_balanced", {"ensemble": ["a.onnx", "b.ckpt"]}])
def test_a_preset_or_an_ensemble_is_accepted(service: Service, job: Job, model: Any) -> None:
    assert service.client.post({**job, "model": model}).status == 202
    (task,) = service.queued()
    expected = model if isinstance(model, str) else "avg_wave: a.onnx, b.ckpt"
    assert str(task.model) == expected


def test_an_ensemble_is_queued_as_requested(service: Service, job: Job) -> None:
    model = {"ensemble": ["a.onnx", "b.ckpt", "c.yaml"], "algorithm": "avg_fft", "weights": [1, 2, 0.5]}
    assert service.client.post({**job, "model": model}).status == 202
    (task,) = service.queued()
    assert task.model == Ensemble(
        ensemble=("a.onnx", "b.ckpt", "c.yaml"), algorithm=Algorithm.AVG_FFT, weights=(1.0, 2.0, 0.5)
    )


_TWO = ["a.onnx", "b.ckpt"]


@pytest.mark.parametrize(
    ("ensemble", "sentence", "field"),
    [
        ({}, "model.ensemble must be a list of 2 to 8 different file names of models", "model.ensemble"),
        ({"ensemble": ["a.onnx"]}, "model.ensemble must be a list of 2 to 8 different", "model.ensemble"),
        ({"ensemble": [f"{n}.onnx" for n in range(9)]}, "model.ensemble must be a list of 2 to 8", "model.ensemble"),
        ({"ensemble": ["a.onnx", "a.onnx"]}, "model.ensemble must be a list of 2 to 8 different", "model.ensemble"),
        ({"ensemble": ["a.onnx", "../b"]}, "model.ensemble must be a list of 2 to 8 different", "model.ensemble.1"),
        ({"ensemble": "a.onnx"}, "model.ensemble must be a list of 2 to 8 different", "model.ensemble"),
        ({"ensemble": _TWO, "algorithm": "mean"}, "model.algorithm must be one of: avg_wave, median_wave,", None),
        ({"ensemble": _TWO, "weights": [1]}, "model.weights must be as many as the models", "model"),
        ({"ensemble": _TWO, "weights": [1, 0]}, "model.weights must be positive numbers", "model.weights.1"),
        ({"ensemble": _TWO, "weights": [1, -2]}, "model.weights must be positive numbers", "model.weights.1"),
        ({"ensemble": _TWO, "weights": [1, "2"]}, "model.weights must be positive numbers", "model.weights.1"),
        ({"ensemble": _TWO, "weights": [1, True]}, "model.weights must be positive numbers", "model.weights.1"),
        (
            {"ensemble": _TWO, "algorithm": "max_fft", "weights": [1, 2]},
            "model.weights must be as many as the models, and only with avg_wave or avg_fft",
            "model",
        ),
    ],
)
def test_an_invalid_ensemble_is_refused_with_a_sentence(
    service: Service, job: Job, ensemble: dict[str, Any], sentence: str, field: str | None
) -> None:
    answer = service.client.post({**job, "model": ensemble})

    assert answer.status == 422
    assert answer.json["error"].startswith(sentence)
    assert answer.json["details"]["field"] == "model"
    assert answer.json["details"]["problems"][0]["field"] == (field or "model.algorithm")
    assert service.queued() == []


def test_metadata_up_to_its_limit_is_accepted(client: Client, job: Job) -> None:
    filling = "x" * (MAX_METADATA_BYTES - len('{"a":""}'))

    assert client.post({**job, "metadata": {"a": filling}}).status == 202
    assert client.post({**job, "metadata": {"a": filling + "x"}}).status == 422


#: One error for each check, in the order of the contract: (header or field, bad value, status, sentence).
_FAULTS: list[tuple[str, Any, int, str]] = [
    ("Authorization", "Basic bm86bm8=", 401, "Valid credentials are required"),
    ("Content-Type", "text/plain", 400, "Content-Type must be application/json"),
    ("audio", None, 400, "audio field is required"),
    ("hook_url", "", 400, "hook_url field is required"),
    ("audio", "ftp://x", 400, "audio must be a valid HTTP(S) URL"),
    ("hook_url", "hook", 400, "hook_url must be a valid HTTP(S) URL"),
    ("audio", "http://127.0.0.1/", 403, "audio is refused"),
    ("hook_url", "http://10.0.0.1/", 403, "hook_url is refused"),
    ("model", "../x", 422, "model must be"),
    ("stems", 3, 422, "stems must be"),
    ("output_format", "ogg", 422, "output_format must be"),
    ("priority", "high", 422, "priority must be"),
    ("metadata", 3, 422, "metadata must be"),
    ("X-Client-Id", "", 422, "X-Client-Id must be"),
]


@pytest.mark.parametrize("first", range(len(_FAULTS)))
def test_the_first_failed_check_of_the_contract_answers(client: Client, job: Job, first: int) -> None:
    headers: dict[str, str | None] = {}
    for name, value, _, _ in reversed(_FAULTS[first:]):  # The earlier error of a field replaces the later one.
        if name in ("Authorization", "Content-Type", "X-Client-Id"):
            headers[name] = value
        else:
            job[name] = value

    answer = client.post(job, headers)

    assert answer.status == _FAULTS[first][2]
    assert answer.json["error"].startswith(_FAULTS[first][3])


def test_a_body_over_the_limit_is_refused(service: Service, job: Job) -> None:
    fits = json.dumps(job).encode().ljust(MAX_REQUEST_BYTES)

    assert service.client.post(fits).status == 202
    answer = service.client.post(fits + b" ")

    assert answer.status == 413
    assert answer.json["error"] == f"Request body must not be larger than {MAX_REQUEST_BYTES} bytes"
    assert len(service.queued()) == 1


def test_an_announced_length_over_the_limit_is_refused_before_the_body_is_sent(client: Client) -> None:
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: {client.authorization}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {MAX_REQUEST_BYTES + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.port), timeout=DEADLINE) as connection:
        connection.sendall(head.encode())

        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_refused(service: Service, job: Job) -> None:
    fits = json.dumps(job).encode().ljust(MAX_REQUEST_BYTES)
    headers = {"Content-Type": "application/json"}

    def post(body: bytes) -> int:
        chunks = [body[start : start + 7000] for start in range(0, len(body), 7000)]
        return service.client.request("POST", "/generate", iter(chunks), headers).status

    assert post(fits) == 202
    assert post(fits + b" ") == 413
    assert post(fits * 100) == 413
    assert len(service.queued()) == 1


def test_authentication_fails_before_the_body_is_checked(client: Client) -> None:
    assert client.post(b"x" * (MAX_REQUEST_BYTES + 1), {"Authorization": None}).status == 401
