"""Test the command that creates the bucket, as a process with a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from devstack.processes.process import free_port
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
def test_bucket_is_created_once_and_usable(s3_server: S3Server) -> None:
    options = S3Options(
        bucket="made-by-compose",
        endpoint_url=s3_server.endpoint_url,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )
    for _ in range(2):
        result = make_bucket(S3_BUCKET_NAME=options.bucket, **account(s3_server))
        assert result.returncode == ExitCode.OK, result.stderr
        # Neither VersityGW nor S3Proxy has lifecycle rules.
        assert "the S3 server has no lifecycle rules" in result.stderr
    S3Store(options).check()


@pytest.mark.s3
def test_both_buckets_are_created(s3_server: S3Server) -> None:
    options = S3Options(
        bucket="made-for-links",
        private_bucket="made-for-services",
        endpoint_url=s3_server.endpoint_url,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )
    names = {"S3_BUCKET_NAME": "made-for-links", "S3_PRIVATE_BUCKET_NAME": "made-for-services"}
    result = make_bucket(**names, **account(s3_server))
    assert result.returncode == ExitCode.OK, result.stderr
    S3Store(options).check()


@pytest.mark.s3
def test_rejected_account_is_reported_without_its_secret(s3_server: S3Server) -> None:
    wrong = account(s3_server) | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    result = make_bucket(S3_BUCKET_NAME="refused", **wrong)
    assert result.returncode == ExitCode.UNAVAILABLE
    assert "bucket_creation_failed" in result.stderr
    assert "Traceback" not in result.stderr
    assert "not-the-secret" not in result.stderr


def test_unreachable_server_is_reported_with_a_status_for_a_retry() -> None:
    unreachable = {"S3_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "S3_BUCKET_NAME": "uvr"}
    result = make_bucket(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", **unreachable)
    assert result.returncode == ExitCode.UNAVAILABLE
    assert "bucket_creation_failed" in result.stderr


def test_bucket_without_a_name_is_a_configuration_error() -> None:
    result = make_bucket(STORAGE="local")
    assert result.returncode == ExitCode.CONFIG
    assert "S3_BUCKET_NAME must be set" in result.stderr
