"""Strong validators, weak ones that must be ignored, and ``Content-Range``."""

from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from pipeline.download.validators import Agreement, ContentRange, Validator

NOON, FIVE_MINUTES_LATER, SAME_MINUTE = (f"Mon, 01 Jan 2024 12:0{minute}:00 GMT" for minute in (0, 5, 0))


def headers(**values: str) -> CaseInsensitiveDict[str]:
    return CaseInsensitiveDict({name.replace("_", "-"): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("given", "validator"),
    [
        ({}, Validator()),
        ({"etag": '"a"'}, Validator('"a"')),
        ({"etag": '""'}, Validator('""')),
        ({"etag": 'W/"a"'}, Validator()),
        ({"etag": "a"}, Validator()),
        ({"etag": '"a", "b"'}, Validator()),
        ({"etag": '"a'}, Validator()),
        ({"etag": '"a"', "last_modified": NOON, "date": FIVE_MINUTES_LATER}, Validator('"a"')),
        ({"etag": 'W/"a"', "last_modified": NOON, "date": FIVE_MINUTES_LATER}, Validator(modified=NOON)),
        ({"last_modified": NOON, "date": FIVE_MINUTES_LATER}, Validator(modified=NOON)),
        ({"last_modified": NOON, "date": SAME_MINUTE}, Validator()),
        ({"last_modified": FIVE_MINUTES_LATER, "date": NOON}, Validator()),
        ({"last_modified": NOON}, Validator()),
        ({"last_modified": "yesterday", "date": FIVE_MINUTES_LATER}, Validator()),
        ({"last_modified": NOON, "date": "Mon, 01 Jan 2024 12:05:00"}, Validator()),
    ],
)
def test_strongest_validator_is_chosen(given: dict[str, str], validator: Validator) -> None:
    assert Validator.of(headers(**given)) == validator


@pytest.mark.parametrize(
    ("validator", "given", "agreement"),
    [
        (Validator('"a"'), {"etag": '"a"'}, Agreement.SAME),
        (Validator('"a"'), {"etag": '"b"'}, Agreement.CHANGED),
        (Validator('"a"'), {"etag": 'W/"a"'}, Agreement.CHANGED),
        (Validator('"a"'), {"last_modified": NOON}, Agreement.SILENT),
        (Validator(modified=NOON), {"last_modified": NOON}, Agreement.SAME),
        (Validator(modified=NOON), {"last_modified": FIVE_MINUTES_LATER}, Agreement.CHANGED),
        (Validator(modified=NOON), {}, Agreement.SILENT),
        (Validator(), {"etag": '"b"'}, Agreement.SAME),
    ],
)
def test_response_is_compared_with_the_version(
    validator: Validator, given: dict[str, str], agreement: Agreement
) -> None:
    assert validator.compare(headers(**given)) is agreement


def test_request_conditions() -> None:
    assert Validator('"a"').conditions(False) == {"If-Match": '"a"'}
    assert Validator('"a"').conditions(True) == {"If-Range": '"a"'}
    assert Validator(modified=NOON).conditions(False) == {"If-Unmodified-Since": NOON}
    assert Validator(modified=NOON).conditions(True) == {"If-Range": NOON}
    assert Validator().conditions(True) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 10, 10)),
        ("Bytes 3-3/10", ContentRange(3, 4, 10)),
        ("bytes 0-10/10", None),
        ("bytes 5-4/10", None),
        ("bytes 0-9/*", None),
        ("bytes */10", None),
        ("bytes 0-9", None),
        ("bytes -1-9/10", None),
        ("bytes 0-9/10, bytes 0-9/10", None),
        ("bytes=0-9/10", None),
        ("bytes 0-٩/10", None),
        ("bytes 0-9/" + "9" * 19, None),
        ("", None),
    ],
)
def test_content_ranges(text: str, expected: ContentRange | None) -> None:
    assert ContentRange.of(headers(content_range=text)) == expected
