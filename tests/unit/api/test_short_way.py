"""The app's short way for plain inference: the same answers, and none where the operator has added middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from forebay.api.app import ForebayApp, create_app
from forebay.api.inference import Inference

MLP = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
PLAIN = ["/v2/models/mlp/infer", "/v2/models/mlp/versions/1/infer", "/v2/models/mlp/infer?a=b"]


class Counting:
    """An operator's middleware."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self.app, self.seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.seen.append(scope["path"])
        await self.app(scope, receive, send)


def app_of(inference: Inference) -> ForebayApp:
    app = create_app(inference, metrics_text=lambda: b"", ready=list)
    assert isinstance(app, ForebayApp)
    return app


@pytest.mark.parametrize("path", [*PLAIN, "/v2/models/m%6cp/infer"])
@pytest.mark.parametrize("body", [MLP, {}, []])
async def test_the_short_way_answers_like_the_long_one(
    make_inference: Callable[..., Inference], path: str, body: Any
) -> None:
    app = app_of(make_inference())
    answers = []
    for short in (app.short_way, {}):
        app.short_way = short
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            answer = await http.post(path, json=body)
            answers.append((answer.status_code, dict(answer.headers), answer.content))
    assert answers[0] == answers[1]
    assert answers[0][0] == (200 if body is MLP else 400)


async def test_an_operators_middleware_sees_every_request(make_inference: Callable[..., Inference]) -> None:
    app = app_of(make_inference())
    seen: list[str] = []
    app.add_middleware(Counting, seen=seen)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for path in PLAIN:
            assert (await http.post(path, json=MLP)).status_code == 200
    assert seen == [path.partition("?")[0] for path in PLAIN]
