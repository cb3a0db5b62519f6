"""The values of a request survive the way to the queue."""

from __future__ import annotations

from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from api.request_parsing import validate
from pipeline.messages import SeparationTask

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_METADATA = st.dictionaries(
    st.text(max_size=20),
    st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)),
    max_size=5,
)


@given(_METADATA)
@settings(max_examples=60, deadline=None, database=None)
def test_metadata_survives_unchanged(metadata: dict[str, object]) -> None:
    fields = from_json(to_json({"audio": "a", "hook_url": "h", "metadata": metadata}))

    task = SeparationTask(task_uuid=uuid4(), **validate(fields).model_dump())

    assert SeparationTask.model_validate_json(task.model_dump_json()).metadata == metadata


def test_metadata_of_the_largest_depth_survives() -> None:
    accepted = 0
    for depth in range(1, 300):
        body = '{"audio":"a","hook_url":"h","metadata":{"a":' + "[" * depth + "]" * depth + "}}"
        try:
            fields = from_json(body, allow_inf_nan=False)
        except ValueError:
            break
        task = SeparationTask(task_uuid=uuid4(), **validate(fields).model_dump())
        assert SeparationTask.model_validate_json(task.model_dump_json()) == task
        accepted = depth
    assert 100 < accepted < 299
