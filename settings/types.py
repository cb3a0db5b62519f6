"""Base class and field types of the settings: durations and sizes with units, lists, URLs, hosts and networks."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, ClassVar, Final, Self

import idna
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict

KIB, MIB, GIB = 1024, 1024**2, 1024**3

#: Longest duration of a setting, s: longer than any use, and short enough for every timer.
LONGEST: Final = 1_000_000_000

#: Marks a setting that every deployment of the API must set.
REQUIRED: Final[JsonDict] = {"required": True}
#: Marks a setting that few deployments change.
ADVANCED: Final[JsonDict] = {"advanced": True}

_DURATION_UNITS: dict[str, Decimal] = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_SIZE_UNITS = {
    "TiB": 1024 * GIB,
    "GiB": GIB,
    "MiB": MIB,
    "KiB": KIB,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
}
_SIZES = {"b": 1, **{unit.lower(): size for unit, size in _SIZE_UNITS.items()}}
_WITH_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


class ConfigError(Exception):
    """The settings cannot be used; the message names each variable and the remedy, but no value."""


class Choice(StrEnum):
    """Base of the settings with a few values. Their case does not matter."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return next((choice for choice in cls if choice.value.lower() == str(value).lower()), None)


class Section(BaseModel):
    """Base of the settings models. An empty string counts as unset; unknown names are ignored."""

    title: ClassVar[str]
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_values(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""} if isinstance(values, dict) else values


def parse_seconds(value: object) -> object:
    """Return the seconds of a duration with a unit, such as ``500ms``, ``20s``, ``10m``, ``2h`` or ``7d``.

    A plain number is returned as it is. Raises ValueError for any other text.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    match = _WITH_UNIT.fullmatch(value)
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError(
            "must be a number of seconds, or a duration with the unit ms, s, m, h or d, such as 20s or 10m"
        )
    return float(Decimal(match[1]) * _DURATION_UNITS[match[2]])


def parse_milliseconds(value: object) -> object:
    """Return the whole milliseconds of a duration with a unit; a plain number is returned as it is.

    Raises ValueError for any other text.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    match = _WITH_UNIT.fullmatch(value)
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError("must be milliseconds, or a duration with the unit ms, s, m, h or d, such as 500ms or 10m")
    return _whole(Decimal(match[1]) * _DURATION_UNITS[match[2]] * 1000, "milliseconds")


def parse_bytes(value: object) -> object:
    """Return the bytes of a size with a unit, such as ``64KiB`` (1,024 bytes each) or ``1MB`` (1,000,000 bytes).

    The case of units does not matter. A plain number is returned as it is. Raises ValueError for any other text.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    match = _WITH_UNIT.fullmatch(value)
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError(
            "must be a number of bytes, or a size with the unit B, KB, MB, GB, KiB, MiB or GiB, such as 500MiB"
        )
    return _whole(Decimal(match[1]) * _SIZES[match[2].lower()], "bytes")


def format_seconds(seconds: float) -> str:
    """Return the duration in the largest unit that gives a whole number: ``7d``, ``10m``, ``1500ms``."""
    for unit, size in _DURATION_UNITS.items():
        count = Decimal(str(seconds)) / size
        if count >= 1 and count == count.to_integral_value():
            return f"{int(count)}{unit}"
    return f"{seconds:g}"


def format_bytes(size: int) -> str:
    """Return the size in the largest unit that gives a whole number: ``4GiB``, ``64KiB``; else plain bytes."""
    unit = next((unit for unit, factor in _SIZE_UNITS.items() if size and size % factor == 0), "")
    return f"{size // _SIZE_UNITS.get(unit, 1)}{unit}"


def require_host(value: str) -> str:
    """Return a host name in lower-case ASCII; ``*.example.org`` becomes ``.example.org``. Raises ValueError."""
    name = value.removeprefix("*").lower().removesuffix(".")
    dot = "." if name.startswith(".") else ""
    try:
        ascii_name = name[len(dot) :] if name.isascii() else idna.encode(name[len(dot) :]).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        ascii_name = ""
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?", ascii_name) or ".." in ascii_name:
        raise ValueError("must be host names, such as music.example.org, or .example.org for every name under it")
    return dot + ascii_name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(number: Decimal, unit: str) -> int:
    if number != number.to_integral_value():
        raise ValueError(f"must be a whole number of {unit}")
    return int(number)


def _http_url(value: str) -> str:
    """Check a URL and keep its spelling, without a trailing slash."""
    try:
        url = TypeAdapter(HttpUrl).validate_python(value)
    except ValidationError:
        url = None
    if url is None or url.port == 0:
        raise ValueError(
            "must be http:// or https:// with a host and, if need be, a port and a path, such as "
            "https://example.org:9000"
        )
    return value.rstrip("/")


def _listening_host(value: str) -> str:
    """Check an address to listen on: a host name or an IP address."""
    try:
        return str(ip_address(value))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", value):
            raise ValueError(
                "must be an address of this machine without a port, such as 127.0.0.1, 0.0.0.0 or localhost"
            ) from None
    return value


def _secret(value: SecretStr) -> SecretStr:
    """Check a key or a password: a blank around it or a line break in it is hardly a part of it."""
    text = value.get_secret_value()
    if text != text.strip():
        raise ValueError("begins or ends with a blank: remove it")
    if not all(sign.isprintable() for sign in text):
        raise ValueError("contains a line break or another control character: remove it")
    return value


def _split(value: object) -> object:
    """Split ``10, 60, 600`` into a tuple."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def _increasing(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values or list(values) != sorted(set(values)):
        raise ValueError("must be one or more delays in s, each longer than the one before, such as 10,60,600")
    return values


def _network(value: str) -> str:
    """Return an address or a network in canonical form."""
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("must be networks, such as 10.1.0.0/16 or fd12:3456::/32, or single addresses") from None


UPPER_CASE: Final = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
SPLIT: Final = BeforeValidator(_split)
PARSE_SECONDS: Final = BeforeValidator(parse_seconds)
PARSE_MILLISECONDS: Final = BeforeValidator(parse_milliseconds)
PARSE_BYTES: Final = BeforeValidator(parse_bytes)

BaseUrl = Annotated[str, AfterValidator(_http_url)]
Urls = Annotated[tuple[BaseUrl, ...], SPLIT]
Count = Annotated[int, Field(ge=1)]
Host = Annotated[str, AfterValidator(_listening_host)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, PARSE_SECONDS, Field(gt=0, le=LONGEST, allow_inf_nan=False)]
WholeSeconds = Annotated[int, PARSE_SECONDS]
Milliseconds = Annotated[int, PARSE_MILLISECONDS, Field(ge=1000)]
Delays = Annotated[tuple[Seconds, ...], SPLIT, AfterValidator(_increasing)]
Bytes = Annotated[int, PARSE_BYTES, Field(ge=1)]
BytesPerSecond = Annotated[int, PARSE_BYTES, Field(ge=0)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(require_host)], ...], SPLIT]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], SPLIT]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], SPLIT]
