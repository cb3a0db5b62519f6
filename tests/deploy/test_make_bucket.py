"""The one-shot service that makes the bucket, as a process against a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from devstack.process import free_port
from devstack.s3 import S3Server
from pipeline.service.shutdown import ExitCode
from pipeline.storage.s3.store import S3Options, S3Store
from tests.deploy.conftest import ROOT


def make_bucket(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.make_bucket"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STORAGE": "s3"} | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def account(server: S3Server) -> dict[str, str]:
    return {
        "S3_ENDPOINT_URL": server.endpoint_url,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }


@pytest.mark.s3
def test_makes_a_bucket_that_can_be_used_and_may_do_so_again(s3_server: S3Server) -> None:
    options = S3Options(
        bucket="made-by-compose",
        endpoint_url=s3_server.endpoint_url,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )
    for _ in range(2):
        result = make_bucket(S3_BUCKET_NAME=options.bucket, **account(s3_server))
        assert result.returncode == ExitCode.OK, result.stderr
    S3Store(options).check()


@pytest.mark.s3
def test_a_refused_account_is_told_and_its_secret_is_not(s3_server: S3Server) -> None:
    wrong = account(s3_server) | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    result = make_bucket(S3_BUCKET_NAME="refused", **wrong)
    assert result.returncode == ExitCode.UNAVAILABLE
    assert "bucket_not_made" in result.stderr
    assert "Traceback" not in result.stderr
    assert "not-the-secret" not in result.stderr


def test_no_server_is_told_and_leaves_it_to_compose_to_try_again() -> None:
    nobody = {"S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "S3_BUCKET_NAME": "uvr"}
    result = make_bucket(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", **nobody)
    assert result.returncode == ExitCode.UNAVAILABLE
    assert "bucket_not_made" in result.stderr


def test_a_bucket_without_a_name() -> None:
    result = make_bucket(STORAGE="local")
    assert result.returncode == ExitCode.CONFIG
    assert "S3_BUCKET_NAME must be set" in result.stderr
