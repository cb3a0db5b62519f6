"""The form of errors that the framework itself raises."""

from __future__ import annotations

from fastapi import FastAPI

from api.body_limit import BodyLimit
from api.errors import install_error_handlers
from tests.api.http_client import serving


def test_an_invalid_parameter_has_the_form_of_all_errors() -> None:
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


def test_a_body_on_a_route_without_one_is_ignored() -> None:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(BodyLimit, limit=10)

    @app.post("/deaf")
    async def deaf() -> str:
        return "done"

    with serving(app, ("", "")) as client:
        assert client.request("POST", "/deaf", b"x" * 100_000).status == 200
