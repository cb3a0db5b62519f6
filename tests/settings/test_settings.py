"""Test the settings: their sources, their values, and errors that name the variable without its value."""

from __future__ import annotations

import base64
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from config import SECRETS, SECTIONS, ConfigError, Section, Settings, StorageEngine, env_example, load
from settings.api import ApiSettings
from settings.download import DownloadSettings
from settings.env_example import is_marked

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-hunter2"
VALID_WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

#: Variables that clients and operators of the older service have in their environments.
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
    """Map every variable to its section and field."""
    return {str(field.alias): (section, name) for section in SECTIONS for name, field in section.model_fields.items()}


def read(**environment: str) -> Settings:
    """Load the settings from these variables alone."""
    return load(None, environment)


def error_of(**environment: str) -> str:
    """Return the message of the ConfigError that these variables cause."""
    with pytest.raises(ConfigError) as caught:
        load(None, environment)
    return str(caught.value)


class TestNames:
    def test_variables_of_the_older_service_are_kept(self) -> None:
        assert fields().keys() >= KEPT

    def test_no_variable_is_used_twice(self) -> None:
        aliases = [field.alias for section in SECTIONS for field in section.model_fields.values()]
        assert len(aliases) == len(set(aliases))

    def test_no_secret_file_has_the_name_of_another_setting(self) -> None:
        assert not {f"{name}_FILE" for name in SECRETS} & fields().keys()

    @pytest.mark.parametrize("name", ["HOST", "PORT", "USERNAME", "PASSWORD", "SECRET", "LEVEL", "TIMEOUT"])
    @pytest.mark.parametrize("spelling", [str.upper, str.lower])
    def test_field_names_are_not_variables(self, name: str, spelling: type[str], tmp_path: Path) -> None:
        env_file = tmp_path / ".env"
        env_file.write_text(f"{spelling(name)}=9\n")
        assert load(env_file, {}) == load(None, {spelling(name): "9"}) == load(None, {})

    def test_names_are_matched_in_any_case(self) -> None:
        assert read(api_port="1111").api.port == 1111

    def test_every_variable_is_described(self) -> None:
        described = [field.description for section in SECTIONS for field in section.model_fields.values()]
        assert all(described)


class TestSources:
    def test_environment_overrides_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path(".env").write_text("API_PORT=1111\nAPI_HOST=0.0.0.0\n")
        monkeypatch.delenv("API_HOST", raising=False)
        monkeypatch.setenv("API_PORT", "2222")
        settings = load()
        assert (settings.api.host, settings.api.port) == ("0.0.0.0", 2222)

    def test_an_empty_value_means_the_default(self) -> None:
        assert load(None, dict.fromkeys(fields(), "")) == load(None, {})

    def test_an_empty_variable_does_not_hide_the_file(self, tmp_path: Path) -> None:
        env_file = tmp_path / ".env"
        env_file.write_text("API_PORT=1111\n")
        assert load(env_file, {"API_PORT": ""}).api.port == 1111

    def test_a_file_that_is_not_text_is_an_error(self, tmp_path: Path) -> None:
        env_file = tmp_path / ".env"
        env_file.write_bytes(b"API_PORT=\xff\n")
        with pytest.raises(ConfigError, match=r"\.env cannot be read \(it is not UTF-8 text\)"):
            load(env_file, {})

    def test_importing_reads_and_creates_nothing(self, tmp_path: Path) -> None:
        environment = {
            **os.environ,
            "API_PORT": "not a port",
            "DATA_DIR": str(tmp_path / "data"),
            "PYTHONPATH": str(ROOT),
        }
        subprocess.run([sys.executable, "-c", "import config"], cwd=tmp_path, env=environment, check=True)
        assert list(tmp_path.iterdir()) == []


class TestModels:
    def test_a_section_is_validated_from_a_mapping_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("API_HOST", "from.environment.test")
        settings = ApiSettings.model_validate({"API_PORT": "1111", "BASIC_AUTH_USERNAME": "", "UNKNOWN": "x"})
        assert (settings.host, settings.port, settings.username) == ("127.0.0.1", 1111, None)

    def test_defaults_are_valid(self) -> None:
        for section in SECTIONS:
            defaults = section()
            dumped = {name: getattr(defaults, name) for name in section.model_fields}
            assert section.model_validate(dumped) == defaults

    def test_settings_are_frozen(self) -> None:
        settings = load(None, {})
        with pytest.raises(ValidationError, match="frozen"):
            settings.api.port = 1  # type: ignore[misc]
        with pytest.raises(ValidationError, match="frozen"):
            settings.api = ApiSettings()  # type: ignore[misc]

    def test_settings_can_be_sent_to_a_child_process(self) -> None:
        settings = DownloadSettings.model_validate({"DOWNLOAD_PROXY": "http://user:pw@proxy:3128", "PORT": "1"})
        assert pickle.loads(pickle.dumps(settings)) == settings


class TestSecretFiles:
    @pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
    def test_the_file_holds_the_value(self, content: str, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text(content, newline="")
        settings = read(BASIC_AUTH_USERNAME="user", BASIC_AUTH_PASSWORD_FILE=str(file))
        assert settings.api.require_credentials() == ("user", SECRET)

    @pytest.mark.parametrize("name", SECRETS)
    def test_every_secret_has_a_file_variant(self, name: str, tmp_path: Path) -> None:
        message = error_of(**{f"{name}_FILE": str(tmp_path / SECRET)})
        assert message == f"{name}_FILE: the file cannot be read (No such file or directory)"

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
    def test_line_breaks_at_the_end_are_stripped(self, tmp_path: Path, end: str) -> None:
        file = tmp_path / "password"
        file.write_bytes(f"two words{end}".encode())
        for password in (
            read(BASIC_AUTH_PASSWORD_FILE=str(file)).api.password,
            read(BASIC_AUTH_PASSWORD=f"two words{end}").api.password,
        ):
            assert password is not None
            assert password.get_secret_value() == "two words"

    def test_value_and_file_together_are_an_error(self, tmp_path: Path) -> None:
        file, env_file = tmp_path / "secret", tmp_path / ".env"
        file.write_text(VALID_WEBHOOK_SECRET)
        env_file.write_text(f"WEBHOOK_SECRET={VALID_WEBHOOK_SECRET}\n")
        with pytest.raises(ConfigError) as caught:
            load(env_file, {"WEBHOOK_SECRET_FILE": str(file)})
        assert str(caught.value) == "WEBHOOK_SECRET and WEBHOOK_SECRET_FILE are both set: set only one of them"

    def test_an_empty_variant_counts_as_unset(self) -> None:
        assert read(WEBHOOK_SECRET_FILE="", WEBHOOK_SECRET=VALID_WEBHOOK_SECRET).webhook.secret is not None

    def test_an_empty_file_is_an_error(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_text("\n")
        assert error_of(AWS_SECRET_ACCESS_KEY_FILE=str(file)) == "AWS_SECRET_ACCESS_KEY_FILE: the file is empty"

    def test_a_file_that_is_not_text_is_an_error(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        file.write_bytes(b"\xff")
        assert "KAFKA_SASL_PASSWORD_FILE: the file cannot be read" in error_of(KAFKA_SASL_PASSWORD_FILE=str(file))

    def test_a_wrong_content_is_reported_without_it(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text(SECRET)
        message = error_of(WEBHOOK_SECRET_FILE=str(file))
        assert message.startswith("WEBHOOK_SECRET: must be whsec_")
        assert SECRET not in message


class TestExample:
    def test_file_is_generated_from_the_settings(self) -> None:
        printed = subprocess.run(
            [sys.executable, "-m", "config"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert (ROOT / ".env.example").read_text(encoding="utf-8") == printed, "python -m config > .env.example"

    def test_every_variable_is_there_once(self) -> None:
        names = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", env_example(), flags=re.MULTILINE)
        assert sorted(names) == sorted(fields())

    def test_copied_unchanged_it_sets_nothing(self, tmp_path: Path) -> None:
        example = tmp_path / "example"
        example.write_text(env_example(), encoding="utf-8")
        assert load(example, {}) == load(None, {})

    def test_the_values_shown_are_the_defaults(self, tmp_path: Path) -> None:
        example = tmp_path / "example"
        example.write_text(re.sub(r"^# (?=[A-Z][A-Z0-9_]+=)", "", env_example(), flags=re.MULTILINE), encoding="utf-8")
        assert load(example, {}) == load(None, {})

    def test_only_required_variables_are_not_commented_out(self) -> None:
        assert re.findall(r"^[^#\n].*", env_example(), flags=re.MULTILINE) == [
            "BASIC_AUTH_USERNAME=",
            "BASIC_AUTH_PASSWORD=",
        ]

    def test_advanced_settings_come_last(self) -> None:
        text = env_example()
        start = text.index("# ===== Advanced settings")
        for section in SECTIONS:
            for field in section.model_fields.values():
                place = re.search(rf"^(# )?{field.alias}=", text, flags=re.MULTILINE)
                assert place is not None
                assert (place.start() > start) == is_marked(field, "advanced"), field.alias

    def test_every_secret_file_is_listed(self) -> None:
        header = env_example().partition("# ---")[0]
        assert all(f"{name}_FILE" in header for name in SECRETS)


class TestErrors:
    def test_every_wrong_variable_is_named_at_once(self) -> None:
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
            ("JOB_TIMEOUT", SECRET),
            ("MAX_AUDIO_BYTES", SECRET),
            ("KAFKA_SESSION_TIMEOUT_MS", SECRET),
        ],
    )
    def test_no_error_shows_a_value(self, variable: str, value: str) -> None:
        message = error_of(**{variable: value})
        assert variable in message
        assert "hunter2" not in message

    def test_secrets_do_not_show_in_the_settings(self) -> None:
        settings = read(
            BASIC_AUTH_PASSWORD=SECRET,
            AWS_ACCESS_KEY_ID=SECRET,
            AWS_SECRET_ACCESS_KEY=SECRET,
            WEBHOOK_SECRET=VALID_WEBHOOK_SECRET,
            DOWNLOAD_PROXY=f"http://user:{SECRET}@proxy:3128",
        )
        for shown in (repr(settings), str(settings), settings.model_dump_json()):
            assert SECRET not in shown
            assert VALID_WEBHOOK_SECRET not in shown


class TestCredentials:
    @pytest.mark.parametrize(
        ("environment", "missing"),
        [
            ({}, ["BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD"]),
            ({"BASIC_AUTH_USERNAME": "user"}, ["BASIC_AUTH_PASSWORD"]),
            ({"BASIC_AUTH_PASSWORD": SECRET}, ["BASIC_AUTH_USERNAME"]),
            ({"BASIC_AUTH_USERNAME": "user", "BASIC_AUTH_PASSWORD": ""}, ["BASIC_AUTH_PASSWORD"]),
        ],
    )
    def test_both_are_required(self, environment: dict[str, str], missing: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            read(**environment).api.require_credentials()
        named = [name for name in ("BASIC_AUTH_USERNAME", "BASIC_AUTH_PASSWORD") if name in str(caught.value)]
        assert named == missing

    def test_a_short_password_is_refused_without_showing_it(self) -> None:
        with pytest.raises(ConfigError, match=r"BASIC_AUTH_PASSWORD is too short: .* at least 8 characters") as caught:
            read(BASIC_AUTH_USERNAME="user", BASIC_AUTH_PASSWORD="hunter2").api.require_credentials()
        assert "hunter2" not in str(caught.value)

    def test_both_are_returned(self) -> None:
        settings = read(BASIC_AUTH_USERNAME="user", BASIC_AUTH_PASSWORD=SECRET)
        assert settings.api.require_credentials() == ("user", SECRET)


class TestStorage:
    def test_store_is_local_unless_a_bucket_is_named(self) -> None:
        assert read().storage.engine is StorageEngine.LOCAL
        assert read(S3_BUCKET_NAME="stems").storage.engine is StorageEngine.S3
        assert read(S3_BUCKET_NAME="stems", STORAGE="local").storage.engine is StorageEngine.LOCAL

    @pytest.mark.parametrize("variable", ["STORAGE", "HANDOFF"])
    def test_s3_needs_a_bucket(self, variable: str) -> None:
        assert "S3_BUCKET_NAME" in error_of(**{variable: "s3"})
        read(**{variable: "s3", "S3_BUCKET_NAME": "stems"})

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_one_key_without_the_other_is_rejected(self, variable: str) -> None:
        message = error_of(**{variable: "half"})
        assert "AWS_ACCESS_KEY_ID" in message
        assert "AWS_SECRET_ACCESS_KEY" in message

    def test_urls_keep_their_spelling_without_a_trailing_slash(self) -> None:
        settings = read(S3_PUBLIC_DOMAIN="https://cdn.example.org/Stems/")
        assert settings.storage.s3_public_domain == "https://cdn.example.org/Stems"


class TestWebhookSecret:
    @pytest.mark.parametrize("secret", [VALID_WEBHOOK_SECRET, f"{VALID_WEBHOOK_SECRET} {VALID_WEBHOOK_SECRET}"])
    def test_one_or_two_in_standard_form_are_accepted(self, secret: str) -> None:
        kept = read(WEBHOOK_SECRET=secret).webhook.secret
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
    def test_any_other_form_is_rejected(self, secret: str) -> None:
        assert "WEBHOOK_SECRET" in error_of(WEBHOOK_SECRET=secret)


class TestDownloads:
    @pytest.mark.parametrize(
        ("value", "hosts"),
        [
            ("Music.Example.org.", ("music.example.org",)),
            ("a.test, *.b.test .c.test", ("a.test", ".b.test", ".c.test")),
            ("bücher.test,.bücher.test", ("xn--bcher-kva.test", ".xn--bcher-kva.test")),
            ("nas,a_b.test,10.0.0.5", ("nas", "a_b.test", "10.0.0.5")),
        ],
    )
    def test_lists_of_hosts(self, value: str, hosts: tuple[str, ...]) -> None:
        settings = read(URL_ALLOW_HOSTS=value, URL_DENY_HOSTS=value).download
        assert settings.allow_hosts == settings.deny_hosts == hosts

    @pytest.mark.parametrize(
        "value", ["http://a.test", "a.test/x", "a.test:80", "a..test", ".", "*", "a b!", "[::1]", "①.test"]
    )
    def test_invalid_hosts_are_rejected(self, value: str) -> None:
        assert "URL_DENY_HOSTS" in error_of(URL_DENY_HOSTS=value)

    def test_lists_of_networks_and_ports(self) -> None:
        settings = read(URL_ALLOW_NETWORKS="10.0.0.0/8, 192.168.1.1 FD00:0::/8", URL_ALLOW_PORTS="443,8443").download
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
    def test_values_out_of_range_are_rejected(self, variable: str, value: str) -> None:
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
    def test_invalid_proxies_are_rejected(self, value: str) -> None:
        assert "DOWNLOAD_PROXY" in error_of(DOWNLOAD_PROXY=value)

    @pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
    def test_proxies(self, scheme: str) -> None:
        assert read(DOWNLOAD_PROXY=f"{scheme}://user:p%40ss@proxy.test:3128/").download.proxy is not None

    def test_pins_are_normalised(self) -> None:
        digest = "AB" * 32
        settings = read(DOWNLOAD_CERTIFICATE_PINS=f"{digest},Models.Test={':'.join(['ab'] * 32)}")
        assert settings.download.certificate_pins == ("ab" * 32, "models.test=" + "ab" * 32)

    @pytest.mark.parametrize("value", ["ab", "sha256/abc=", "g" * 64, f"https://a.test={'a' * 64}"])
    def test_invalid_pins_are_rejected(self, value: str) -> None:
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
    def test_lists_of_devices(self, value: str, devices: tuple[str, ...]) -> None:
        assert read(PROCESSOR_DEVICES=value).worker.devices == devices

    @pytest.mark.parametrize("value", ["cuda", "cuda:0", "-1", "auto,0", "0;1", "gpu-1", "1000"])
    def test_invalid_devices_are_rejected_with_an_example(self, value: str) -> None:
        message = error_of(PROCESSOR_DEVICES=value)
        assert "PROCESSOR_DEVICES" in message
        assert "name it alone" in message or "such as 0,1,3" in message

    @pytest.mark.parametrize("value", ["0", "17", "two"])
    def test_concurrency_out_of_range_is_rejected(self, value: str) -> None:
        assert "PROCESSOR_CONCURRENCY" in error_of(PROCESSOR_CONCURRENCY=value)


def test_two_keys_for_model_files_are_rejected() -> None:
    message = error_of(MODEL_KEY_FILE="/run/key", MODEL_KEY_COMMAND="kms decrypt key")
    assert "MODEL_KEY_FILE" in message
    assert "MODEL_KEY_COMMAND" in message


@pytest.mark.parametrize("servers", ["kafka", "kafka:", ":9092", "kafka-1:9092,kafka-2", "PLAINTEXT://kafka:9092"])
def test_broker_without_host_or_port_is_rejected(servers: str) -> None:
    assert "KAFKA_BOOTSTRAP_SERVERS: must be host:port" in error_of(KAFKA_BOOTSTRAP_SERVERS=servers)


@pytest.mark.parametrize("servers", ["kafka:9092", "10.0.0.1:9092, kafka_2.internal:19092", "[::1]:9092"])
def test_brokers_with_ports_are_accepted(servers: str) -> None:
    assert read(KAFKA_BOOTSTRAP_SERVERS=servers).kafka.bootstrap_servers == servers


def test_more_in_sync_replicas_than_replicas_are_rejected() -> None:
    assert "KAFKA_REPLICATION_FACTOR" in error_of(KAFKA_MIN_INSYNC_REPLICAS="2")
    settings = read(KAFKA_MIN_INSYNC_REPLICAS="2", KAFKA_REPLICATION_FACTOR="3")
    assert settings.kafka.min_insync_replicas == 2


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_tensorrt_with_float32_is_rejected(precision: str) -> None:
    assert "TENSORRT needs PRECISION" in error_of(TENSORRT="true", PRECISION=precision)


def test_tensorrt_with_compilation_is_rejected() -> None:
    message = error_of(TENSORRT="true", PRECISION="fp16", TORCH_COMPILE="inductor")
    assert "TENSORRT and TORCH_COMPILE cannot both be set" in message


class TestPrivateNetworks:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "stems.lan", "203.0.113.7"])
    def test_they_are_refused_on_an_address_that_others_reach(self, host: str) -> None:
        settings = read(API_HOST=host, ALLOW_PRIVATE_NETWORKS="true")
        with pytest.raises(ConfigError, match=r"ALLOW_PRIVATE_NETWORKS .* API_HOST"):
            settings.api.require_no_private_networks_on_a_public_address(settings.download.allow_private_networks)

    @pytest.mark.parametrize(
        ("host", "allowed"), [("127.0.0.1", "true"), ("::1", "true"), ("localhost", "true"), ("0.0.0.0", "false")]
    )
    def test_each_alone_is_allowed(self, host: str, allowed: str) -> None:
        settings = read(API_HOST=host, ALLOW_PRIVATE_NETWORKS=allowed)
        settings.api.require_no_private_networks_on_a_public_address(settings.download.allow_private_networks)


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        ("", "any.onnx", True),
        ("UVR-MDX-NET-*, htdemucs.yaml", "htdemucs.yaml", True),
        ("UVR-MDX-NET-*,1_HP-UVR (mono).pth", "1_HP-UVR (mono).pth", True),
        ("UVR-MDX-NET-*", "htdemucs.yaml", False),
        ("UVR-MDX-NET-*", "uvr-mdx-net-inst_hq_4.onnx", False),
    ],
)
def test_allowed_models(patterns: str, name: str, allowed: bool) -> None:
    assert load(None, {"MODEL_ALLOW": patterns}).model.allows(name) is allowed


def test_default_model_must_be_allowed() -> None:
    with pytest.raises(ConfigError, match="MODEL_ALLOW must include MODEL_NAME"):
        load(None, {"MODEL_ALLOW": "htdemucs.yaml"})
