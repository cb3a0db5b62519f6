"""Test durations and sizes with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import ConfigError, load
from settings.types import format_bytes, format_seconds, parse_bytes, parse_milliseconds, parse_seconds

SECONDS_OF = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
BYTES_OF = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)
}


@given(st.integers(0, 10**9), st.sampled_from(list(SECONDS_OF)), st.sampled_from(["", " "]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str, space: str) -> None:
    assert parse_seconds(f"{number}{space}{unit}") == pytest.approx(number * SECONDS_OF[unit])


@given(st.integers(0, 10**9), st.sampled_from(list(BYTES_OF)), st.sampled_from([str.upper, str.lower, str]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str, spelling: type[str]) -> None:
    assert parse_bytes(f"{number}{spelling(unit)}") == number * BYTES_OF[unit]


@given(st.integers(1, 10**12).map(lambda milliseconds: milliseconds / 1000))
def test_a_formatted_duration_is_read_back(seconds: float) -> None:
    assert float(str(parse_seconds(format_seconds(seconds)))) == seconds


@given(st.integers(0, 2**50) | st.integers(0, 2**12).map(lambda count: count * 1024**3))
def test_a_formatted_size_is_read_back(size: int) -> None:
    assert int(str(parse_bytes(format_bytes(size)))) == size


@given(st.floats(allow_nan=False) | st.integers())
def test_plain_numbers_are_left_to_the_field(number: float) -> None:
    for parse in (parse_seconds, parse_milliseconds, parse_bytes):
        assert parse(str(number)) == str(number)
        assert parse(number) == number


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "500ms"), (20, "20s"), (90, "90s"), (600, "10m"), (7200, "2h"), (604_800, "7d")]
)
def test_durations_are_formatted_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1KB"), (1025, "1025"), (64 * 1024, "64KiB"), (500 * 1024**2, "500MiB")]
)
def test_sizes_are_formatted_in_the_largest_whole_unit(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_settings_accept_units() -> None:
    settings = load(
        None,
        {
            "SHUTDOWN_GRACE": "1.5m",
            "RETRY_DELAYS": "500ms, 1m 2h",
            "RESULT_URL_TTL": "7d",
            "KAFKA_SESSION_TIMEOUT_MS": "45s",
            "KAFKA_MAX_POLL_INTERVAL_MS": "10m",
            "MAX_AUDIO_BYTES": "0.5GiB",
            "DOWNLOAD_RATE_LIMIT": "1MB",
            "MODEL_POOL_BYTES": "6 gib",
        },
    )
    assert settings.worker.shutdown_grace == 90
    assert settings.worker.retry_delays == (0.5, 60.0, 7200.0)
    assert settings.storage.result_url_ttl == 604_800
    assert (settings.kafka.session_timeout_ms, settings.kafka.max_poll_interval_ms) == (45_000, 600_000)
    assert (settings.download.max_audio_bytes, settings.download.rate_limit) == (512 * 1024**2, 1_000_000)
    assert settings.model.pool_bytes == 6 * 1024**3


def test_settings_accept_plain_numbers() -> None:
    settings = load(
        None,
        {
            "SHUTDOWN_GRACE": "1.5",
            "RESULT_URL_TTL": "60",
            "KAFKA_SESSION_TIMEOUT_MS": "4000",
            "MAX_AUDIO_BYTES": "1",
            "RETRY_DELAYS": "1,2.5",
        },
    )
    assert settings.worker.shutdown_grace == 1.5
    assert settings.storage.result_url_ttl == 60
    assert settings.kafka.session_timeout_ms == 4000
    assert settings.download.max_audio_bytes == 1
    assert settings.worker.retry_delays == (1.0, 2.5)


@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("SHUTDOWN_GRACE", "20 seconds", "such as 20s or 10m"),
        ("SHUTDOWN_GRACE", "20S", "such as 20s or 10m"),
        ("SHUTDOWN_GRACE", "-5s", "such as 20s or 10m"),
        ("SHUTDOWN_GRACE", "0s", "more than 0"),
        ("SHUTDOWN_GRACE", "20MiB", "such as 20s or 10m"),
        ("RETRY_DELAYS", "1m,10s", "each longer than the one before"),
        ("RESULT_URL_TTL", "8d", "604800"),
        ("RESULT_URL_TTL", "60500ms", "whole number"),
        ("KAFKA_SESSION_TIMEOUT_MS", "999ms", "1000"),
        ("KAFKA_SESSION_TIMEOUT_MS", "1000.5ms", "whole number of milliseconds"),
        ("KAFKA_MAX_POLL_INTERVAL_MS", "10min", "such as 500ms or 10m"),
        ("MAX_AUDIO_BYTES", "500M", "such as 500MiB"),
        ("MAX_AUDIO_BYTES", "10s", "such as 500MiB"),
        ("MAX_AUDIO_BYTES", "0MiB", "at least 1"),
        ("MAX_AUDIO_BYTES", "0.3B", "whole number of bytes"),
        ("DOWNLOAD_RATE_LIMIT", "-1MB", "such as 500MiB"),
    ],
)
def test_wrong_units_are_rejected(variable: str, value: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {variable: value})
    assert variable in str(caught.value)
    assert part in str(caught.value)
