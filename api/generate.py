"""``POST /generate``: accept a job."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Depends, Request

from api.auth import BasicAuth
from api.errors import documented
from api.job_queue import JobQueue
from api.models import Accepted, GenerateRequest
from api.request_parsing import CLIENT_HEADER, CLIENT_PATTERN, client_of, read_fields, required_urls, validated
from api.url_check import UrlCheck
from pipeline.messages import SeparationTask
from pipeline.service.logs import get_logger, loggable_url

log = get_logger(__name__)

#: By hand, since body and header are checked by hand, in the order of the contract.
_DOCUMENTATION = {
    "parameters": [
        {
            "name": CLIENT_HEADER,
            "in": "header",
            "required": False,
            "description": "Whose job it is; no secret, it is logged. Default: the host of `hook_url`. A few jobs of a "
            "client go to the queue of their priority, and one more every so often. Those above that go to a queue of "
            "their own, with the share of the lowest priority: nobody's many jobs hold up another's single one.",
            "schema": {"type": "string", "pattern": CLIENT_PATTERN},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}},
    },
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
        openapi_extra=_DOCUMENTATION,
    )
    async def generate(request: Request) -> Accepted:
        """Fetches the song at `audio`, separates it, and posts links to the stems to `hook_url`.

        Every accepted job ends in exactly one outcome, which the webhook is told at least once.
        """
        fields = await read_fields(request)
        await urls.admit(required_urls(fields))
        task = SeparationTask(task_uuid=uuid4(), **validated(fields).model_dump())
        client = client_of(request.headers.getlist(CLIENT_HEADER), task.hook_url)
        topic = await queue.put(task, client)
        log.info(
            "job_accepted",
            task_uuid=str(task.task_uuid),
            client=client,
            topic=topic,
            priority=task.priority,
            audio=loggable_url(task.audio),
            model=task.model and str(task.model),
            stems=task.stems,
            output_format=task.output_format,
        )
        return Accepted(task_uuid=task.task_uuid)

    return router
