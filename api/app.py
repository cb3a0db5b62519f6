"""Assembles the ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import __version__
from api.auth import BasicAuth
from api.body_limit import BodyLimit
from api.client_rate_limit import ClientRateLimit
from api.errors import install_error_handlers
from api.files import files_router
from api.generate import generate_router
from api.health import health_router
from api.job_queue import JobQueue
from api.metrics import RequestCount, metrics_router
from api.server.framing import UnambiguousLength
from api.url_check import UrlCheck
from pipeline.download.ssrf.url_guard import UrlGuard
from pipeline.progress import EventReporter
from pipeline.storage import ObjectStore
from pipeline.storage.local.store import LocalStore
from pipeline.storage.signed_links import LinkSigner, load_or_create_key
from pipeline.topics import Topics
from pipeline.transport import Transport

if TYPE_CHECKING:
    from config import Settings

_DESCRIPTION = """\
Post the URL of a song; its stems (voice, accompaniment) are separated and stored, and your webhook receives links to
them. `202` means that the job is durable. Every error has the form `{"error": "one clear sentence", "details": ...}`.
"""
_TAGS = [
    {"name": "jobs", "description": "Ask for work."},
    {"name": "files", "description": "Finished stems, when they are kept on this machine."},
    {"name": "health", "description": "For probes and operators."},
]


def create_app(settings: Settings, transport: Transport, store: ObjectStore, guard: UrlGuard) -> FastAPI:
    """Return the ASGI application. The caller closes ``transport``.

    Raises ConfigError without credentials, InfrastructureError if the signing key of the local store cannot be read.
    """
    auth = BasicAuth(*settings.api.require_credentials())
    topics = Topics.from_settings(settings)
    rate_limit = ClientRateLimit(settings.api.client_burst, settings.api.client_refill)
    queue = JobQueue(transport, topics, rate_limit, EventReporter(transport, topics.events))
    has_operations_port = settings.api.operations_port is not None
    app = _new_app(with_docs=not has_operations_port)
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limit=settings.api.max_request_bytes)
    app.add_middleware(UnambiguousLength)
    app.add_middleware(RequestCount)
    if settings.api.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.api.trusted_proxies))
    app.include_router(generate_router(queue, UrlCheck(guard), auth))
    app.include_router(health_router(transport, store))
    if not has_operations_port:
        app.include_router(metrics_router())
    if isinstance(store, LocalStore):
        app.include_router(files_router(store, LinkSigner(load_or_create_key(settings.state.link_key_file))))
    return app


def create_operations_app(settings: Settings, app: FastAPI, transport: Transport, store: ObjectStore) -> FastAPI | None:
    """Return the application of the operators' port, with the documentation of ``app``; None if none is set."""
    if settings.api.operations_port is None:
        return None
    operations = _new_app(with_docs=True)
    install_error_handlers(operations)
    operations.add_middleware(UnambiguousLength)
    operations.include_router(health_router(transport, store))
    operations.include_router(metrics_router())
    operations.openapi = app.openapi  # type: ignore[method-assign]
    return operations


def _new_app(*, with_docs: bool) -> FastAPI:
    # The scripts of the documentation page are served locally, so that it works without internet access.
    create = FastAPIOffline if with_docs else FastAPI
    return create(
        title="UVR-API",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url="/openapi.json" if with_docs else None,
        docs_url="/docs" if with_docs else None,
        redoc_url=None,
        redirect_slashes=False,
    )
