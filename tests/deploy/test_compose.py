"""Test docker-compose.yml: pinned versions, existing settings, no default for a secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from config import Settings, StorageEngine, load
from tests.deploy.compose import ComposeFile, MissingVariableError, interpolate, variables_of
from tests.deploy.conftest import REQUIRED, ROOT, SETTINGS
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.test_dockerfile import IMAGES, PINNED, PINNED_BY_DIGEST

SettingsOf = Callable[..., Settings]
"""``settings_of(service, **variables)``: returns the settings as the service in its container reads them."""

SERVICES = ("api", "processor", "processor-gpu", "uploader")
CREDENTIALS = set(REQUIRED)
SECRETS = {name for name, field in SETTINGS.items() if SecretStr.__name__ in str(field.annotation)}
BROKER_SECRETS = {"KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD"}
#: Secrets that are optional.
OPTIONAL = BROKER_SECRETS | {"WEBHOOK_SECRET", "DOWNLOAD_PROXY", "AWS_SESSION_TOKEN"}
#: Settings without effect here (of the embedded transport and the local store), or fixed by the image.
FIXED = {
    *("API_HOST", "API_PORT", "OPERATIONS_HOST", "PROCESSOR_HEALTH_HOST", "PROCESSOR_HEALTH_PORT"),
    *("UPLOADER_HEALTH_HOST", "UPLOADER_HEALTH_PORT"),
    *("DATA_DIR", "TEMP_DIR", "OUTPUT_DIR", "MODEL_FILE_DIR", "EMBEDDED_LEASE", "RESULT_BASE_URL"),
}


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a piece of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def seconds(duration: str) -> int:
    number, unit = int(duration[:-1]), duration[-1]
    return number * {"s": 1, "m": 60}[unit]


@pytest.fixture
def settings_of(compose: ComposeFile, dockerfile: Dockerfile) -> SettingsOf:
    def read(service: str, **variables: str) -> Settings:
        environment = dockerfile.environment(compose.built[service])
        return load(None, environment | compose.environment(service, REQUIRED | variables))

    return read


def test_foreign_images_are_pinned_to_exact_versions(compose: ComposeFile) -> None:
    foreign = {name: service["image"] for name, service in compose.services.items() if "image" in service}
    assert set(foreign) | set(compose.built) == set(compose.services)
    versions = [interpolate(image, {}) for image in foreign.values()]
    assert all(PINNED.fullmatch(image.replace(":v", ":")) for image in versions), versions


def test_every_image_can_be_pinned_by_its_digest(compose: ComposeFile, dockerfile: Dockerfile) -> None:
    names = {"KAFKA_IMAGE_DIGEST", "S3_IMAGE_DIGEST", *dockerfile.arguments}
    digests = {name: f"@sha256:{position:064x}" for position, name in enumerate(sorted(names))}
    for service in compose.services.values():
        if "image" in service:
            assert PINNED_BY_DIGEST.fullmatch(interpolate(service["image"], digests).replace(":v", ":"))
        else:
            given = {name: interpolate(value, digests) for name, value in service["build"]["args"].items()}
            assert given == {name: digests[name] for name in dockerfile.arguments}


def test_every_target_is_in_the_dockerfile(compose: ComposeFile, dockerfile: Dockerfile) -> None:
    assert set(compose.built.values()) == set(IMAGES)
    assert set(IMAGES) <= set(dockerfile.stages)


def test_environment_contains_only_existing_settings(compose: ComposeFile) -> None:
    for name in compose.built:
        assert set(compose.services[name]["environment"]) <= set(SETTINGS), name


def test_every_setting_can_be_set(compose: ComposeFile) -> None:
    reachable = {setting for name in compose.built for setting in compose.services[name]["environment"]}
    assert reachable | FIXED == set(SETTINGS), "a setting is missing in docker-compose.yml, or in FIXED above"
    assert not reachable & FIXED


def test_services_receive_only_the_secrets_that_they_need(compose: ComposeFile) -> None:
    given = {name: set(compose.services[name]["environment"]) for name in compose.built}
    holders = {secret: {name for name, settings in given.items() if secret in settings} for secret in SECRETS}
    assert holders.pop("BASIC_AUTH_PASSWORD") == {"api"}
    assert holders.pop("WEBHOOK_SECRET") == {"uploader"}
    assert holders.pop("DOWNLOAD_PROXY") == set(SERVICES) - {"api"}
    for secret in BROKER_SECRETS:
        assert holders.pop(secret) == set(SERVICES)
    assert set(holders) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


def test_no_secret_has_a_default(compose: ComposeFile) -> None:
    used = list(variables_of(compose.text))
    assert {name for name, _, _ in used} >= CREDENTIALS
    for name, operator, _ in used:
        assert (operator == ":?") == (name in CREDENTIALS | SECRETS), name
    for name, service in compose.services.items():
        for setting in SECRETS & set(service.get("environment", {})):
            assert str(service["environment"][setting] or "").startswith("${") or setting in OPTIONAL, name


@pytest.mark.parametrize("missing", sorted(CREDENTIALS))
def test_missing_credentials_prevent_the_start(compose: ComposeFile, missing: str) -> None:
    present = {name: value for name, value in REQUIRED.items() if name != missing}
    with pytest.raises(MissingVariableError, match=missing):
        interpolate("\n".join(strings(compose.services)), present)


def test_every_variable_besides_settings_is_explained(compose: ComposeFile) -> None:
    header = compose.text.partition("\nname:")[0]
    used = {name for name, _, _ in variables_of(compose.text)}
    assert used - set(SETTINGS)
    assert all(re.search(rf"\b{name}\b", header) for name in used - set(SETTINGS))


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_complete_and_safe(settings_of: SettingsOf, service: str) -> None:
    settings = settings_of(service)
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert (settings.storage.engine, settings.storage.handoff) == (StorageEngine.S3, StorageEngine.S3)
    assert settings.storage.s3_endpoint_url == "http://s3.localhost:7070"
    assert settings.storage.s3_bucket == "uvr"
    assert not settings.download.allow_private_networks
    assert settings.model.require_gpu == (service == "processor-gpu")
    if service == "api":
        assert settings.api.require_credentials() == ("listener", REQUIRED["BASIC_AUTH_PASSWORD"])


def test_settings_of_the_user_reach_the_service(settings_of: SettingsOf) -> None:
    assert settings_of("processor", MODEL_NAME="another.onnx", JOB_TIMEOUT="5").model.model_name == "another.onnx"
    assert settings_of("uploader", WEBHOOK_TIMEOUT="3").webhook.timeout == 3
    assert settings_of("api", ALLOW_PRIVATE_NETWORKS="true").download.allow_private_networks is False


def test_all_services_have_the_same_rules_for_urls(settings_of: SettingsOf) -> None:
    rule = {
        "URL_ALLOW_HOSTS": "music.test,.hooks.test",
        "URL_DENY_HOSTS": "old.hooks.test",
        "URL_ALLOW_NETWORKS": "10.1.0.0/16",
        "URL_DENY_NETWORKS": "192.0.2.0/24",
        "URL_ALLOW_PORTS": "443",
    }
    for service in SERVICES:
        download = settings_of(service, **rule).download
        assert download.allow_hosts == ("music.test", ".hooks.test"), service
        assert download.deny_hosts == ("old.hooks.test",), service
        assert (download.allow_networks, download.deny_networks) == (("10.1.0.0/16",), ("192.0.2.0/24",)), service
        assert download.allow_ports == (443,), service


def test_audio_models_and_webhooks_use_the_same_proxy(settings_of: SettingsOf) -> None:
    proxy = {"DOWNLOAD_PROXY": "socks5h://proxy.test", "DOWNLOAD_MINIMUM_TLS": "1.3"}
    for service in set(SERVICES) - {"api"}:
        download = settings_of(service, **proxy).download
        assert download.proxy, service
        assert download.proxy.get_secret_value() == proxy["DOWNLOAD_PROXY"], service
        assert download.minimum_tls == "1.3", service


@pytest.mark.parametrize("service", ["processor", "processor-gpu"])
def test_decrypted_models_fit_into_shared_memory(compose: ComposeFile, settings_of: SettingsOf, service: str) -> None:
    assert settings_of(service).model.plain_dir == Path("/dev/shm")
    size = compose.services[service]["shm_size"]
    assert interpolate(size, {}) == "4gb"
    assert interpolate(size, {"SHM_SIZE": "8gb"}) == "8gb"


def test_processor_on_another_machine_can_name_the_servers(settings_of: SettingsOf) -> None:
    elsewhere = {"KAFKA_BOOTSTRAP_SERVERS": "10.0.0.1:19092", "S3_ENDPOINT_URL": "http://stems.test:7070"}
    settings = settings_of("processor-gpu", **elsewhere)
    assert settings.kafka.bootstrap_servers == elsewhere["KAFKA_BOOTSTRAP_SERVERS"]
    assert settings.storage.s3_endpoint_url == elsewhere["S3_ENDPOINT_URL"]


def test_links_to_the_s3_server_work_inside_and_outside(compose: ComposeFile, settings_of: SettingsOf) -> None:
    chosen = {"S3_HOST": "stems.test", "S3_PORT": "9000", "S3_BIND": "192.0.2.7"}
    assert settings_of("uploader", **chosen).storage.s3_endpoint_url == "http://stems.test:9000"
    s3 = compose.services["s3"]
    assert [interpolate(name, chosen) for name in s3["networks"]["default"]["aliases"]] == ["stems.test"]
    assert [interpolate(port, chosen) for port in s3["ports"]] == ["192.0.2.7:9000:9000"]
    assert interpolate(s3["command"][0], chosen) == "--port=:9000"
    # The server and the services use the same account.
    server, client = compose.environment("s3", REQUIRED), compose.environment("uploader", REQUIRED)
    assert server["ROOT_ACCESS_KEY"] == client["AWS_ACCESS_KEY_ID"]
    assert server["ROOT_SECRET_KEY"] == client["AWS_SECRET_ACCESS_KEY"]


def test_ports_are_published_on_loopback_by_default(compose: ComposeFile) -> None:
    ports = [interpolate(port, {}) for service in compose.services.values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:19092:19092", "127.0.0.1:7070:7070", "127.0.0.1:8000:8000"]


def test_everything_has_a_health_check(compose: ComposeFile, dockerfile: Dockerfile) -> None:
    for name, service in compose.services.items():
        if name == "bucket":  # runs once
            continue
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert seconds(check["timeout"]) <= seconds(check["interval"]), name
        assert check["start_period"], name
        if name in compose.built:
            *command, path, variable = check["test"][1:]
            assert (command, path) == (["python", "-m", "deploy.probe"], "/ready"), name
            assert variable in dockerfile.environment(compose.built[name]), name


@pytest.mark.parametrize("service", [*SERVICES, "bucket"])
def test_own_containers_have_few_privileges(compose: ComposeFile, service: str) -> None:
    written = compose.services[service]
    assert written["read_only"] is written["init"] is True
    assert written["cap_drop"] == ["ALL"]
    assert written["security_opt"] == ["no-new-privileges:true"]
    assert written["tmpfs"] == ["/tmp"]


def test_data_are_written_to_named_volumes(compose: ComposeFile, dockerfile: Dockerfile) -> None:
    mounts = {name: dict(v.split(":")[::-1] for v in s.get("volumes", [])) for name, s in compose.services.items()}
    assert {volume for found in mounts.values() for volume in found.values()} == compose.volumes
    assert "api" not in {name for name, found in mounts.items() if found}
    for name in SERVICES[1:]:
        environment = dockerfile.environment(compose.built[name])
        assert environment["DATA_DIR"] in mounts[name], name
        if name != "uploader":
            assert environment["MODEL_FILE_DIR"] in mounts[name], name
            assert environment["NUMBA_CACHE_DIR"].startswith(f"{environment['DATA_DIR']}/"), name
    assert compose.services["kafka"]["environment"]["KAFKA_LOG_DIRS"] in mounts["kafka"]


def test_stop_grace_period_covers_the_shutdown_of_the_service(compose: ComposeFile) -> None:
    grace = SETTINGS["SHUTDOWN_GRACE"].default
    for service in SERVICES:
        # At the end of the grace period, the job is returned to the queue and the clients are closed.
        assert seconds(interpolate(compose.services[service]["stop_grace_period"], {})) >= grace + 15


def test_services_wait_for_their_dependencies(compose: ComposeFile) -> None:
    for service in SERVICES:
        assert compose.services[service]["depends_on"] == {
            "kafka": {"condition": "service_healthy"},
            "bucket": {"condition": "service_completed_successfully"},
        }
        assert compose.services[service]["restart"] == "unless-stopped"
    assert compose.services["bucket"]["depends_on"] == {"s3": {"condition": "service_healthy"}}
    assert compose.services["bucket"]["restart"] == "on-failure"


def test_gpu_processor_differs_only_in_its_gpu(compose: ComposeFile) -> None:
    cpu, gpu = compose.services["processor"], compose.services["processor-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert "profiles" not in cpu
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert gpu["environment"] == cpu["environment"] | {"REQUIRE_GPU": "true"}
    assert gpu["volumes"] == cpu["volumes"]


def compose_command() -> list[str]:
    """Return the command of Docker Compose 2 or later; skip the test with the reason if it is not installed."""
    found = "is not installed"
    for program, *rest in (["docker", "compose"], ["docker-compose"]):
        path = shutil.which(program)
        if path is None:
            continue
        version = subprocess.run([path, *rest, "version", "--short"], capture_output=True, text=True, check=False)
        number = version.stdout.strip().removeprefix("v")
        if version.returncode == 0 and not number.startswith("1."):
            return [path, *rest]
        if number:
            found = f"is version {number}, and 2 is needed"
    pytest.skip(f"Docker Compose {found}: docker-compose.yml was read only by tests/deploy/compose.py")


def test_old_docker_compose_is_skipped_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker-compose").write_text("#!/bin/sh\necho 1.29.2\n")
    (tmp_path / "docker-compose").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"is version 1\.29\.2, and 2 is needed"):
        compose_command()


def test_docker_compose_reads_the_file_the_same_way(compose: ComposeFile, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    variables = REQUIRED | {"S3_HOST": "stems.test", "LOG_LEVEL": "DEBUG"}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    command = [*compose_command(), "--env-file", str(env_file), "--profile", "gpu"]
    shown = subprocess.run(
        [*command, "config", "--format", "json"],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME")},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    read = json.loads(shown.stdout)["services"]
    assert set(read) == set(compose.services)
    for name in compose.services:
        given = {key: value for key, value in read[name].get("environment", {}).items() if value is not None}
        assert given == compose.environment(name, variables), name
