"""A server of model files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processor.models.model_source import SecureSource


@pytest.fixture
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureSource]:
    with SecureSource(tmp_path_factory.mktemp("authority") / "ca.pem") as server:
        yield server
