"""Values that cannot be used: each is answered by a sentence, without the value."""

from __future__ import annotations

import pytest

from config import SECRETS, SECTIONS, ConfigError, load, variable_names

WRONG = ("banana", "-5", "1e400", "nan", "99999999999999999999", "1.5", "a\tb", "http://x:99999/", "::::", "1x")
ALL = sorted(variable_names(SECTIONS))


def sentence(name: str, value: str) -> str:
    """Return the message of the ConfigError, or an empty string if the value can be used."""
    try:
        load(None, {name: value})
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ALL)
def test_every_error_is_a_sentence_that_names_the_variable(name: str) -> None:
    for value in WRONG:
        message = sentence(name, value)
        assert not message or name in message
        for jargon in ("Input should", "String should", "pattern", "parse", "^", "valid", "ctx", "None"):
            assert jargon not in message, message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LOG_LEVEL", "loud", "LOG_LEVEL: must be DEBUG, INFO, WARNING or ERROR"),
        ("TORCH_COMPILE", "max", "TORCH_COMPILE: must be none, inductor or graphs"),
        ("DOWNLOAD_HTTP", "4", "DOWNLOAD_HTTP: must be 1.1, 2 or 3"),
        ("DITHER", "maybe", "DITHER: must be true or false"),
        ("API_PORT", "http", "API_PORT: must be a whole number"),
        ("API_PORT", "70000", "API_PORT: must be at most 65535"),
        ("PREFETCH", "-1", "PREFETCH: must be at least 0"),
        ("SHUTDOWN_GRACE", "0", "SHUTDOWN_GRACE: must be more than 0"),
        ("SHUTDOWN_GRACE", "inf", "SHUTDOWN_GRACE: must be at most 1000000000"),
        ("URL_ALLOW_PORTS", "80,a,b", "URL_ALLOW_PORTS: each part must be a whole number"),
        ("KAFKA_SASL_MECHANISM", "MD5", "KAFKA_SASL_MECHANISM: must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    ],
)
def test_sentences(name: str, value: str, message: str) -> None:
    assert sentence(name, value) == message


@pytest.mark.parametrize("value", ["127.0.0.1:8000", "http://0.0.0.0", "[::1]", "two words"])
def test_addresses_to_listen_on_have_no_port(value: str) -> None:
    for name in ("API_HOST", "OPERATIONS_HOST", "PROCESSOR_HEALTH_HOST", "UPLOADER_HEALTH_HOST"):
        assert "without a port, such as 127.0.0.1" in sentence(name, value)


@pytest.mark.parametrize("value", ["0.0.0.0", "::1", "localhost", "api_1.internal"])
def test_addresses_to_listen_on(value: str) -> None:
    assert load(None, {"API_HOST": value}).api.host == value


@pytest.mark.parametrize("value", ["kafka:0", "kafka:65536", "kafka:9092,", "kafka:9092,other", "http://kafka:9092"])
def test_every_broker_has_a_usable_port(value: str) -> None:
    assert sentence("KAFKA_BOOTSTRAP_SERVERS", value).startswith("KAFKA_BOOTSTRAP_SERVERS: must be host:port")
    assert "such as kafka-1:9092" in sentence("KAFKA_BOOTSTRAP_SERVERS", value)


@pytest.mark.parametrize("value", ["minio:9000", "minio", "s3://minio", "http://minio:0", "http://minio:port"])
def test_urls_of_servers_have_an_example(value: str) -> None:
    for name in ("S3_ENDPOINT_URL", "RESULT_BASE_URL", "MODEL_MIRRORS"):
        assert "such as https://example.org:9000" in sentence(name, value)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("LOG_LEVEL", "info", "INFO"),
        ("LOG_FORMAT", "JSON", "json"),
        ("STORAGE", "Local", "local"),
        ("PRECISION", "FP16", "fp16"),
        ("KAFKA_SECURITY_PROTOCOL", "plaintext", "PLAINTEXT"),
        ("DITHER", "TRUE", "true"),
    ],
)
def test_case_and_blanks_do_not_matter(name: str, value: str, meant: str) -> None:
    assert load(None, {name: f" {value}\n"}) == load(None, {name: meant})


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("secret", [" hunter2-hunter2", "hunter2-hunter2\t", "hunter2\nhunter2", "hunter2\0"])
def test_secrets_with_blanks_or_line_breaks_are_refused_by_name(name: str, secret: str) -> None:
    message = sentence(name, secret)
    assert name in message
    assert "hunter2" not in message
