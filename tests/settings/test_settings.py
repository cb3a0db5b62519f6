"""Settings: from the environment and ``.env``, with errors that name the variable and never show its value."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config import SECTIONS, ConfigError, Engine, Section, Settings, env_example, load

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-hunter2"
VALID_WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

#: What clients and operators of the older service have in their environments.
KEPT = {
    "BASIC_AUTH_USERNAME",
    "BASIC_AUTH_PASSWORD",
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_TASK_TOPIC",
    "KAFKA_RESULT_TOPIC",
    "KAFKA_PROCESSOR_GROUP_ID",
    "KAFKA_UPLOADER_GROUP_ID",
    "S3_ENDPOINT_URL",
    "S3_BUCKET_NAME",
    "S3_PUBLIC_DOMAIN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "API_HOST",
    "API_PORT",
    "MODEL_NAME",
    "MODEL_FILE_DIR",
    "TEMP_DIR",
    "OUTPUT_DIR",
}


def fields() -> dict[str, tuple[type[Section], str]]:
    """Every variable with the section and the field that it sets."""
    return {str(field.alias): (section, name) for section in SECTIONS for name, field in section.model_fields.items()}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in fields():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)  # the developer's own .env is not read


@pytest.fixture
def error_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What ``load`` complains about with these variables set."""

    def error_of(**variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError) as caught:
            load(None)
        return str(caught.value)

    return error_of


class TestNames:
    def test_the_variables_of_the_older_service_are_kept(self) -> None:
        assert fields().keys() >= KEPT

    def test_no_variable_is_used_twice(self) -> None:
        aliases = [field.alias for section in SECTIONS for field in section.model_fields.values()]
        assert len(aliases) == len(set(aliases))

    @pytest.mark.parametrize("name", ["HOST", "PORT", "USERNAME", "PASSWORD", "SECRET", "LEVEL", "TIMEOUT"])
    def test_a_stray_variable_with_the_name_of_a_field_is_no_setting(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(name, "9")
        (tmp_path / ".env").write_text(f"{name}=9\n")
        assert vars(load()) == vars(load(None))
        monkeypatch.delenv(name)
        assert vars(load()) == vars(load(None))

    def test_every_variable_is_described(self) -> None:
        described = [field.description for section in SECTIONS for field in section.model_fields.values()]
        assert all(described)


class TestSources:
    def test_the_environment_wins_over_the_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("API_PORT=1111\nAPI_HOST=0.0.0.0\n")
        monkeypatch.setenv("API_PORT", "2222")
        settings = load()
        assert (settings.api.host, settings.api.port) == ("0.0.0.0", 2222)

    def test_an_empty_value_means_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        defaults = vars(load(None))
        for variable in fields():
            monkeypatch.setenv(variable, "")
        assert vars(load(None)) == defaults

    def test_importing_reads_and_creates_nothing(self, tmp_path: Path) -> None:
        environment = {
            **os.environ,
            "API_PORT": "not a port",
            "DATA_DIR": str(tmp_path / "data"),
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run([sys.executable, "-c", "import config"], cwd=tmp_path, env=environment, check=True)
        assert list(tmp_path.iterdir()) == []


class TestExample:
    def test_it_is_what_the_settings_say(self) -> None:
        printed = subprocess.run(
            [sys.executable, "-m", "config"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert (ROOT / ".env.example").read_text(encoding="utf-8") == printed, "python -m config > .env.example"

    def test_it_sets_every_variable_to_its_default(self, tmp_path: Path) -> None:
        example = tmp_path / "example"
        example.write_text(env_example(), encoding="utf-8")
        names = [line.partition("=")[0] for line in env_example().splitlines() if line and not line.startswith("#")]
        assert set(names) == fields().keys()
        assert vars(Settings(example)) == vars(Settings(None))


class TestErrors:
    def test_every_wrong_variable_is_named_at_once(self, error_of: Callable[..., str]) -> None:
        message = error_of(API_PORT="none", KAFKA_PARTITIONS="0", LOG_LEVEL="loud", MODEL_NAME="../model.onnx")
        assert all(name in message for name in ("API_PORT", "KAFKA_PARTITIONS", "LOG_LEVEL", "MODEL_NAME"))

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("API_PORT", SECRET),
            ("S3_ENDPOINT_URL", f"ftp://key:{SECRET}@storage/"),
            ("S3_PUBLIC_DOMAIN", f"{SECRET}@nowhere"),
            ("WEBHOOK_SECRET", SECRET),
            ("STORAGE", SECRET),
            ("LOG_LEVEL", SECRET),
            ("MODEL_NAME", f"/{SECRET}"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("DOWNLOAD_PROXY", f"socks4://user:{SECRET}@proxy"),
            ("DOWNLOAD_PROXY", f"http://user:{SECRET}@proxy:port"),
            ("MODEL_MIRRORS", f"https://key:{SECRET}@mirror/ ftp://x"),
            ("URL_ALLOW_HOSTS", f"http://{SECRET}/"),
        ],
    )
    def test_no_error_shows_a_value(self, variable: str, value: str, error_of: Callable[..., str]) -> None:
        message = error_of(**{variable: value})
        assert variable in message
        assert "hunter2" not in message

    def test_secrets_do_not_show_in_the_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BASIC_AUTH_PASSWORD", SECRET)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("WEBHOOK_SECRET", VALID_WEBHOOK_SECRET)
        monkeypatch.setenv("DOWNLOAD_PROXY", f"http://user:{SECRET}@proxy:3128")
        shown = repr(list(vars(load(None)).values()))
        assert SECRET not in shown
        assert VALID_WEBHOOK_SECRET not in shown


class TestCredentials:
    @pytest.mark.parametrize(
        ("set_up", "missing"),
        [
            ({}, ["BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD"]),
            ({"BASIC_AUTH_USERNAME": "user"}, ["BASIC_AUTH_PASSWORD"]),
            ({"BASIC_AUTH_PASSWORD": SECRET}, ["BASIC_AUTH_USERNAME"]),
            ({"BASIC_AUTH_USERNAME": "user", "BASIC_AUTH_PASSWORD": ""}, ["BASIC_AUTH_PASSWORD"]),
        ],
    )
    def test_both_are_required(
        self, set_up: dict[str, str], missing: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in set_up.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError) as caught:
            load(None).api.require_credentials()
        named = [name for name in ("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD") if name in str(caught.value)]
        assert named == missing

    def test_both_are_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BASIC_AUTH_USERNAME", "user")
        monkeypatch.setenv("BASIC_AUTH_PASSWORD", SECRET)
        assert load(None).api.require_credentials() == ("user", SECRET)


class TestStorage:
    def test_it_is_local_unless_a_bucket_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert load(None).storage.engine is Engine.LOCAL
        monkeypatch.setenv("S3_BUCKET_NAME", "stems")
        assert load(None).storage.engine is Engine.S3
        monkeypatch.setenv("STORAGE", "local")
        assert load(None).storage.engine is Engine.LOCAL

    @pytest.mark.parametrize("variable", ["STORAGE", "HANDOFF"])
    def test_s3_needs_a_bucket(
        self, variable: str, monkeypatch: pytest.MonkeyPatch, error_of: Callable[..., str]
    ) -> None:
        assert "S3_BUCKET_NAME" in error_of(**{variable: "s3"})
        monkeypatch.setenv("S3_BUCKET_NAME", "stems")
        load(None)

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_half_a_key_is_refused(self, variable: str, error_of: Callable[..., str]) -> None:
        message = error_of(**{variable: "half"})
        assert "AWS_ACCESS_KEY_ID" in message
        assert "AWS_SECRET_ACCESS_KEY" in message

    def test_addresses_keep_their_spelling_less_a_slash_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("S3_PUBLIC_DOMAIN", "https://cdn.example.org/Stems/")
        assert load(None).storage.s3_public_domain == "https://cdn.example.org/Stems"


class TestWebhookSecret:
    @pytest.mark.parametrize("secret", [VALID_WEBHOOK_SECRET, f"{VALID_WEBHOOK_SECRET} {VALID_WEBHOOK_SECRET}"])
    def test_one_or_two_in_the_standard_form(self, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
        kept = load(None).webhook.secret
        assert kept is not None
        assert kept.get_secret_value() == secret

    @pytest.mark.parametrize(
        "secret",
        [
            VALID_WEBHOOK_SECRET.removeprefix("whsec_"),
            "whsec_" + base64.b64encode(b"short").decode(),
            "whsec_" + base64.b64encode(bytes(65)).decode(),
            "whsec_not/base64!",
            f"{VALID_WEBHOOK_SECRET} whsec_",
        ],
    )
    def test_any_other_form_is_refused(self, secret: str, error_of: Callable[..., str]) -> None:
        assert "WEBHOOK_SECRET" in error_of(WEBHOOK_SECRET=secret)


class TestWhatMayBeFetched:
    @pytest.mark.parametrize(
        ("value", "hosts"),
        [
            ("Music.Example.org.", ("music.example.org",)),
            ("a.test, *.b.test .c.test", ("a.test", ".b.test", ".c.test")),
            ("bücher.test,.bücher.test", ("xn--bcher-kva.test", ".xn--bcher-kva.test")),
            ("nas,a_b.test,10.0.0.5", ("nas", "a_b.test", "10.0.0.5")),
        ],
    )
    def test_lists_of_hosts(self, value: str, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("URL_ALLOW_HOSTS", value)
        monkeypatch.setenv("URL_DENY_HOSTS", value)
        settings = load(None).download
        assert settings.allow_hosts == settings.deny_hosts == hosts

    @pytest.mark.parametrize(
        "value", ["http://a.test", "a.test/x", "a.test:80", "a..test", ".", "*", "a b!", "[::1]", "①.test"]
    )
    def test_what_is_no_host(self, value: str, error_of: Callable[..., str]) -> None:
        assert "URL_DENY_HOSTS" in error_of(URL_DENY_HOSTS=value)

    def test_lists_of_networks_and_ports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("URL_ALLOW_NETWORKS", "10.0.0.0/8, 192.168.1.1 FD00:0::/8")
        monkeypatch.setenv("URL_ALLOW_PORTS", "443,8443")
        settings = load(None).download
        assert settings.allow_networks == ("10.0.0.0/8", "192.168.1.1/32", "fd00::/8")
        assert settings.allow_ports == (443, 8443)

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("URL_ALLOW_NETWORKS", "10.0.0.1/8"),
            ("URL_DENY_NETWORKS", "intranet"),
            ("URL_ALLOW_PORTS", "0"),
            ("URL_ALLOW_PORTS", "65536"),
            ("DOWNLOAD_CONNECTIONS", "0"),
            ("DOWNLOAD_RATE_LIMIT", "-1"),
            ("DOWNLOAD_MINIMUM_TLS", "1.1"),
            ("DOWNLOAD_HTTP", "4"),
            ("MODEL_MIRRORS", "mirror.test"),
        ],
    )
    def test_what_cannot_be(self, variable: str, value: str, error_of: Callable[..., str]) -> None:
        assert variable in error_of(**{variable: value})

    @pytest.mark.parametrize(
        "value",
        [
            "proxy:3128",
            "ftp://proxy",
            "http://",
            "http://proxy/path",
            "http://proxy:0",
            "http://proxy:99999",
            "http://[::1",
        ],
    )
    def test_what_is_no_proxy(self, value: str, error_of: Callable[..., str]) -> None:
        assert "DOWNLOAD_PROXY" in error_of(DOWNLOAD_PROXY=value)

    @pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
    def test_proxies(self, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOWNLOAD_PROXY", f"{scheme}://user:p%40ss@proxy.test:3128/")
        assert load(None).download.proxy is not None

    def test_pins_are_kept_in_one_spelling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        digest = "AB" * 32
        monkeypatch.setenv("DOWNLOAD_CERTIFICATE_PINS", f"{digest},Models.Test={':'.join(['ab'] * 32)}")
        assert load(None).download.certificate_pins == ("ab" * 32, "models.test=" + "ab" * 32)

    @pytest.mark.parametrize("value", ["ab", "sha256/abc=", "g" * 64, f"https://a.test={'a' * 64}"])
    def test_what_is_no_pin(self, value: str, error_of: Callable[..., str]) -> None:
        assert "DOWNLOAD_CERTIFICATE_PINS" in error_of(DOWNLOAD_CERTIFICATE_PINS=value)


class TestDevices:
    @pytest.mark.parametrize(
        ("value", "devices"),
        [
            ("Auto", ("auto",)),
            ("CPU", ("cpu",)),
            ("0, 1,3", ("0", "1", "3")),
            ("GPU-8932f937,MIG-GPU-8932f937/1/0", ("GPU-8932f937", "MIG-GPU-8932f937/1/0")),
        ],
    )
    def test_what_can_be(self, value: str, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROCESSOR_DEVICES", value)
        assert load(None).worker.devices == devices

    @pytest.mark.parametrize("value", ["cuda", "cuda:0", "-1", "auto,0", "0;1", "gpu-1", "1000"])
    def test_what_cannot_be_is_told_with_what_can(self, value: str, error_of: Callable[..., str]) -> None:
        message = error_of(PROCESSOR_DEVICES=value)
        assert "PROCESSOR_DEVICES" in message
        assert "name it alone" in message or "such as 0,1,3" in message

    @pytest.mark.parametrize("value", ["0", "17", "two"])
    def test_children_are_counted(self, value: str, error_of: Callable[..., str]) -> None:
        assert "PROCESSOR_CONCURRENCY" in error_of(PROCESSOR_CONCURRENCY=value)


def test_one_key_for_model_files_is_enough(error_of: Callable[..., str]) -> None:
    message = error_of(MODEL_KEY_FILE="/run/key", MODEL_KEY_COMMAND="kms decrypt key")
    assert "MODEL_KEY_FILE" in message
    assert "MODEL_KEY_COMMAND" in message


def test_more_replicas_in_sync_than_there_are_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_MIN_INSYNC_REPLICAS", "2")
    with pytest.raises(ConfigError, match="KAFKA_REPLICATION_FACTOR"):
        Settings(None)
    monkeypatch.setenv("KAFKA_REPLICATION_FACTOR", "3")
    assert Settings(None).kafka.min_insync_replicas == 2


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_tensorrt_is_not_for_float32(precision: str, error_of: Callable[..., str]) -> None:
    assert "TENSORRT needs PRECISION" in error_of(TENSORRT="true", PRECISION=precision)


def test_a_network_is_compiled_in_one_way(error_of: Callable[..., str]) -> None:
    message = error_of(TENSORRT="true", PRECISION="fp16", TORCH_COMPILE="inductor")
    assert "TENSORRT and TORCH_COMPILE cannot both be set" in message
