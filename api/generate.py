"""``POST /generate``: accept a job."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from api.auth import BasicAuth
from api.errors import documented
from api.models import Accepted, GenerateRequest
from api.queue import JobQueue
from api.requests import read_fields, required_urls, validated
from api.urls import UrlCheck
from pipeline.messages import SeparationTask
from pipeline.telemetry import get_logger, loggable_url

log = get_logger(__name__)

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}},
    }
}


def generate_router(queue: JobQueue, urls: UrlCheck, auth: BasicAuth) -> APIRouter:
    """The route; every request needs the credentials of ``auth``."""
    router = APIRouter(tags=["jobs"], dependencies=[Depends(auth)])

    @router.post(
        "/generate",
        status_code=202,
        summary="Separate a song",
        response_description="The job is durable and will be worked on.",
        responses=documented(400, 401, 403, 413, 422, 500, 503),
        openapi_extra=_BODY,
    )
    async def generate(request: Request) -> Accepted:
        """Fetches the song at `audio`, separates it, and posts links to the stems to `hook_url`.

        Every accepted job ends in exactly one outcome, which the webhook is told at least once.
        """
        fields = await read_fields(request)
        await urls.admit(required_urls(fields))
        task = SeparationTask(task_uuid=uuid4(), **validated(fields).model_dump())
        await run_in_threadpool(queue.put, task)
        log.info(
            "job_accepted",
            task_uuid=str(task.task_uuid),
            audio=loggable_url(task.audio),
            model=task.model,
            stems=task.stems,
            output_format=task.output_format,
        )
        return Accepted(task_uuid=task.task_uuid)

    return router
