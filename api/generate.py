"""``POST /generate``: accepts a job."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Depends, Request, Response

from api.auth import BasicAuth
from api.errors import documented
from api.job_queue import JobQueue
from api.models import Accepted, GenerateRequest
from api.request_parsing import (
    CLIENT_HEADER,
    CLIENT_PATTERN,
    client_name,
    is_lenient,
    read_fields,
    reject_unknown_fields,
    require_deliverable,
    required_urls,
    validate,
)
from api.url_check import UrlCheck
from pipeline.messages import SeparationTask
from pipeline.service.logs import get_logger, loggable_url

log = get_logger(__name__)

#: Written by hand, since the route itself checks body and header in the order of the contract.
_DOCUMENTATION = {
    "parameters": [
        {
            "name": CLIENT_HEADER,
            "in": "header",
            "required": False,
            "description": "Name of the client; it is logged. Default: the host of `hook_url`. "
            "The first jobs of a client, and one more at regular intervals, go to the queue of their priority. All "
            "others go to the bulk queue, which has the share of the lowest priority, so that many jobs of one client "
            "do not delay a single job of another.",
            "schema": {"type": "string", "pattern": CLIENT_PATTERN},
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`handling=lenient` (RFC 7240): unknown fields are ignored instead of refused.",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": GenerateRequest.model_json_schema()}},
    },
}


def generate_router(queue: JobQueue, urls: UrlCheck, auth: BasicAuth) -> APIRouter:
    """Return the route. Every request needs the credentials of ``auth``."""
    router = APIRouter(tags=["jobs"], dependencies=[Depends(auth)])

    @router.post(
        "/generate",
        status_code=202,
        summary="Separate a song",
        response_description="The job is durable and will be processed.",
        responses=documented(400, 401, 403, 413, 422, 429, 500, 503),
        openapi_extra=_DOCUMENTATION,
    )
    async def generate(request: Request, response: Response) -> Accepted:
        """Fetches the song at `audio`, separates it, and posts links to the stems to `hook_url`.

        Every accepted job has exactly one outcome, which is delivered to the webhook at least once.
        """
        fields = await read_fields(request)
        await urls.require_allowed(required_urls(fields))
        if is_lenient(request.headers.getlist("Prefer")):
            response.headers["Preference-Applied"] = "handling=lenient"
        else:
            reject_unknown_fields(fields)
        task = SeparationTask(task_uuid=uuid4(), **validate(fields).model_dump())
        require_deliverable(task)
        client = client_name(request.headers.getlist(CLIENT_HEADER), task.hook_url)
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
            sample_rate=task.sample_rate,
        )
        return Accepted(task_uuid=task.task_uuid)

    return router
