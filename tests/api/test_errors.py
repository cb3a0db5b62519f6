"""The form of errors that come from the framework itself, for routes of every kind."""

from __future__ import annotations

from fastapi import FastAPI

from api.body_limit import BodyLimit
from api.errors import install_error_handlers
from tests.api.http_client import serving


def test_a_parameter_out_of_range_has_the_one_form() -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        return number

    with serving(app, ("", "")) as client:
        answer = client.get("/number/seven")

    assert answer.status == 422
    assert set(answer.json) == {"error", "details"}
    assert answer.json["details"]["problems"][0]["field"] == "path.number"
    assert "seven" not in answer.body.decode()


def test_a_route_that_reads_no_body_is_not_troubled_by_one() -> None:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limit=10)

    @app.post("/deaf")
    async def deaf() -> str:
        return "done"

    with serving(app, ("", "")) as client:
        assert client.request("POST", "/deaf", b"x" * 100_000).status == 200
