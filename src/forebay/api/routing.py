"""How an operation becomes a route: plain request in, plain answer out, errors mapped, documented by FastAPI.

Endpoints take the plain request and give a plain response, so that FastAPI adds documentation and routing only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from forebay.api.encode import JSON_HEADERS
from forebay.api.endpoint import log_unforeseen
from forebay.api.problems import Answer, problem_of
from forebay.core.errors import ForebayError

Operation = Callable[[HttpRequest], Awaitable[Answer | Response]]
PlainOperation = Callable[[HttpRequest], Awaitable[Answer]]
"""An operation that never streams."""
AnswerT = TypeVar("AnswerT", bound=Answer | Response)
"""A `Response` writes itself, piece by piece."""

GONE = Answer(499, (), b"")
"""Nobody reads it."""

MODEL_PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


class ClientGone(Exception):  # noqa: N818 - not an error of ours
    """The client closed its connection before it was answered."""


def plain(operate: Operation, **path_params: str) -> ASGIApp:
    """An operation as an ASGI app; `path_params` where no route has found them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if path_params:
            scope["path_params"] = path_params
        answer = await operate(HttpRequest(scope, receive))
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    return app


class PlainRoute(APIRoute):
    """A route whose function takes the request and gives the answer: FastAPI documents it, and does nothing more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = plain(self.endpoint)

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        operate: Operation = self.endpoint

        async def respond(request: HttpRequest) -> Response:
            return response_of(await operate(request))

        return respond


def response_of(answer: Answer | Response) -> Response:
    """The answer as Starlette's."""
    if isinstance(answer, Response):
        return answer
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def document(value: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, JSON_HEADERS, msgspec.json.encode(value))


def add(
    app: FastAPI,
    path: str,
    operate: Callable[[HttpRequest], Awaitable[AnswerT]],
    described: Mapping[int | str, Any],
    summary: str,
    tag: str,
    *,
    method: str = "GET",
    extra: Mapping[str, Any] | None = None,
    refuse: Callable[[BaseException], Answer] = problem_of,
) -> Callable[[HttpRequest], Awaitable[AnswerT | Answer]]:
    """Adds one operation, and returns it: whatever its function raises has become an answer, made by `refuse`."""

    async def endpoint(request: HttpRequest) -> AnswerT | Answer:
        try:
            return await operate(request)
        except ClientGone:
            return GONE
        except ForebayError as error:
            return refuse(error)
        except Exception as error:
            log_unforeseen(error, request.path_params.get("model", ""))
            return refuse(error)

    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        route_class_override=PlainRoute,
        response_model=None,
        response_class=Response,
        responses=dict(described),
        status_code=next((status for status in (200, 202, 204) if status in described), 501),
        openapi_extra=dict(extra or {}),
        summary=summary,
        tags=[tag],
        operation_id=f"{method.lower()} {path}",
    )
    if method == "GET":
        # RFC 9110, 9.1: HEAD wherever GET is; uvicorn leaves the body out. Beside the other, which documents it.
        app.router.add_api_route(
            path,
            endpoint,
            methods=["HEAD"],
            route_class_override=PlainRoute,
            response_model=None,
            include_in_schema=False,
        )
    return endpoint
