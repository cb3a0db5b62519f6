"""``.env``: read as Docker documents it for Compose, and refused where other readers take it differently."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import SECTIONS, ConfigError, load, unknown_variables, variable_names
from settings.env_file import parse_env_file
from settings.unknown import COMPOSE_VARIABLES

ROOT = Path(__file__).parents[2]
NOBODY = 65534
HOME = {"HOME": "/home/uvr", "EMPTY": ""}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        # The rows of Docker's page "Set environment variables", with other names.
        ("A=VAL", "VAL"),
        ('A="VAL"', "VAL"),
        ("A='VAL'", "VAL"),
        ("A=VAL # comment", "VAL"),
        ("A=VAL# not a comment", "VAL# not a comment"),
        ('A="VAL # not a comment"', "VAL # not a comment"),
        ('A="VAL" # comment', "VAL"),
        ("A='$OTHER'", "$OTHER"),
        ("A='${OTHER}'", "${OTHER}"),
        (r"A='Let\'s go!'", "Let's go!"),
        (r'A="{\"hello\": \"json\"}"', '{"hello": "json"}'),
        (r"A='some\tvalue'", r"some\tvalue"),
        (r"A=some\tvalue", r"some\tvalue"),
        # Beyond them.
        ("export A=1", "1"),
        ("  A = 1  ", "1"),
        ("A=", ""),
        ("A= # comment", ""),
        ("A=''", ""),
        ("A=a=b=c", "a=b=c"),
        ("A='a'\t# comment", "a"),
        ('A=it\'s "so"', 'it\'s "so"'),
        ("A='  blanks  '", "  blanks  "),
        (r'A="C:\\stems"', r"C:\stems"),
        ("A=1\nA=2", "2"),
        ("A=ä✓", "ä✓"),
        ("A=1\r\n", "1"),
        # References.
        ("A=${HOME}/stems", "/home/uvr/stems"),
        ('A="${HOME}/stems"', "/home/uvr/stems"),
        ("B=1\nA=${B}2", "12"),
        ("HOME=elsewhere\nA=${HOME}", "/home/uvr"),
        ("A=${MISSING}x", "x"),
        ("A=${MISSING:-other}", "other"),
        ("A=${EMPTY:-other}", "other"),
        ("A=${EMPTY-other}", ""),
        ("A=${MISSING-other}", "other"),
        ("A=${HOME:-other}", "/home/uvr"),
    ],
)
def test_values(line: str, value: str) -> None:
    assert parse_env_file(line, HOME)["A"] == value


@pytest.mark.parametrize(
    "line",
    [
        "A=hunter2$",
        "A=hunter2$B",
        "A=hunter2$$B",
        'A="hunter2$B"',
        "A=hunter2${B:?missing}",
        "A=hunter2${B:-${C}}",
        "A=hunter2${",
        "A=#hunter2",
        r'A="hunter2\t"',
        r'A="hunter2\$B"',
        r"A='hunter2\\'",
        "A='hunter2",
        'A="hunter2',
        "A='hunter2'x",
        'A="hunter2""x"',
        "A='hunter2\nhunter2'",
    ],
)
def test_what_programs_read_differently_is_refused_by_name_without_the_value(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2, A: ") as caught:
        parse_env_file(f"# secrets\n{line}", HOME)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["A: hunter2", "A hunter2", "2A=hunter2", "=hunter2", "A-B=hunter2", "expor A=hunter2"]
)
def test_lines_that_are_no_assignment_are_refused_without_their_text(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_env_file(f"B=1\n\n{line}\n", {})
    assert str(caught.value) == "line 3: must be NAME=value"


def test_comments_blank_lines_and_bare_names_set_nothing() -> None:
    assert parse_env_file("\n  # A=1\n\nA\nexport A\n", HOME) == {}


@pytest.mark.parametrize("name", ["api_port", "Api_Port"])
def test_names_that_compose_would_not_find_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text(f"{name}=1111\n")
    with pytest.raises(ConfigError, match=f"write API_PORT instead of {name}"):
        load(tmp_path / ".env", {})


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfAPI_PORT=1111\n")
    assert load(tmp_path / ".env", {}).api.port == 1111


class TestUnusableFiles:
    """One sentence, status 78, no traceback."""

    def service(self, folder: Path, **options: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "uploader"],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            **options,  # type: ignore[call-overload]
        )
        return done.returncode, done.stderr

    def test_directory(self, tmp_path: Path) -> None:
        (tmp_path / ".env").mkdir()
        assert self.service(tmp_path) == (78, "the file .env cannot be read (Is a directory)\n")

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"BASIC_AUTH_PASSWORD=\xff\xfe\n")
        assert self.service(tmp_path) == (78, "the file .env cannot be read (it is not UTF-8 text)\n")

    def test_not_an_assignment(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("hunter2 hunter2\n")
        assert self.service(tmp_path) == (78, ".env: line 1: must be NAME=value\n")

    def test_file_of_another_user(self, tmp_path: Path) -> None:
        (tmp_path / ".env").touch(mode=0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)  # root can read every file
        try:
            with pytest.raises(ConfigError, match=r"\.env cannot be read \(Permission denied\)$"):
                load(tmp_path / ".env", {})
        finally:
            os.seteuid(user)


#: What programs on the same machine have in their environments.
OTHERS = """
PATH HOME USER SHELL TERM LANG LC_ALL TZ PWD OLDPWD SHLVL TMPDIR TMP TEMP TMP_DIR TEMPDIR EDITOR HOSTNAME MAIL LOGNAME
KAFKA_HOME KAFKA_OPTS KAFKA_HEAP_OPTS KAFKA_JVM_PERFORMANCE_OPTS KAFKA_LOG_DIRS KAFKA_LOG4J_OPTS KAFKA_BROKER_ID
KAFKA_NODE_ID KAFKA_ADVERTISED_LISTENERS KAFKA_ZOOKEEPER_CONNECT KAFKA_CFG_LISTENERS KAFKA_SASL_ENABLED_MECHANISMS
KAFKA_PORT KAFKA_SERVICE_HOST KAFKA_SERVICE_PORT KAFKA_PORT_9092_TCP API_SERVICE_HOST API_PORT_80_TCP
API_PORT_80_TCP_PORT UPLOADER_PORT PROCESSOR_PORT PROCESSOR_ARCHITECTURE PROCESSOR_IDENTIFIER NUMBER_OF_PROCESSORS
AWS_PROFILE AWS_DEFAULT_REGION AWS_SESSION_TOKEN AWS_SECURITY_TOKEN AWS_CA_BUNDLE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3
AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_ROLE_ARN AWS_WEB_IDENTITY_TOKEN_FILE AWS_EC2_METADATA_DISABLED
BOTO_CONFIG SSL_CERT_FILE SSL_CERT_DIR NIX_SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTP_PROXY HTTPS_PROXY
NO_PROXY PYTHONPATH PYTHONUNBUFFERED VIRTUAL_ENV PIP_CERT CONDA_PREFIX NO_COLOR FORCE_COLOR LOGLEVEL LOG_FILE LOG_DIR
CUDA_VISIBLE_DEVICES CUDA_HOME NVIDIA_VISIBLE_DEVICES NUMBA_CACHE_DIR OMP_NUM_THREADS COMPOSE_PROFILES DOCKER_HOST
MODEL MODELS DATA STORAGE_DRIVER DOWNLOAD_DIR WEBHOOK_URL API_KEY API_URL API_TOKEN URL RESULT GITHUB_TOKEN
"""


class TestUnknownVariables:
    def test_variables_of_other_programs_are_no_concern(self) -> None:
        assert unknown_variables(None, dict.fromkeys((*OTHERS.split(), *COMPOSE_VARIABLES), "x")) == ()

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BOOTSTRAP_SERVERS"),
            ("S3_BUCKET", "S3_BUCKET_NAME"),
            ("S3_ENDPOINT", "S3_ENDPOINT_URL"),
            ("API_PROT", "API_PORT"),
            ("BASIC_AUTH_PASWORD", "BASIC_AUTH_PASSWORD"),  # typos: allow
            ("BASIC_AUTH_USER", "BASIC_AUTH_USERNAME"),
            ("WEBHOOK_SECRETS_FILE", "WEBHOOK_SECRET_FILE"),
            ("log_levl", "LOG_LEVEL"),  # typos: allow
        ],
    )
    def test_misspelt_settings_are_named_with_the_right_name(self, tmp_path: Path, name: str, meant: str) -> None:
        (found,) = unknown_variables(None, {name: "hunter2"})
        assert (found.name, found.nearest) == (name.upper(), meant)
        assert str(found) == f"{name.upper()} in the environment is no setting: did you mean {meant}?"
        (tmp_path / ".env").write_text(f"{name}=hunter2\n")
        (in_file,) = unknown_variables(tmp_path / ".env", {})
        assert (in_file.name, in_file.place, in_file.nearest) == (name.upper(), ".env", meant)

    def test_every_unknown_line_of_the_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(
            "XYZZY=hunter2\nAPI_BIND=0.0.0.0\nCOMPOSE_PROFILES=gpu\nAWS_PROFILE=x\nAPI_PORT=1\n"
        )
        (found,) = unknown_variables(tmp_path / ".env", {})
        assert str(found) == "XYZZY in .env is no setting"

    def test_errors_name_the_unknown_variables_that_may_be_the_cause(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(None, {"STORAGE": "s3", "S3_BUCKET": "hunter2"})
        assert str(caught.value) == (
            "S3_BUCKET_NAME must be set when STORAGE or HANDOFF is s3; "
            "S3_BUCKET in the environment is no setting: did you mean S3_BUCKET_NAME?"
        )

    def test_settings_are_never_unknown(self) -> None:
        assert unknown_variables(None, dict.fromkeys(variable_names(SECTIONS), "x")) == ()

    def test_variables_of_the_compose_file_are_known(self) -> None:
        used = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
        assert used - variable_names(SECTIONS) == COMPOSE_VARIABLES
