"""A model that was unloaded to make room, and the requests that wake it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from tests.unit.api.test_generate import app_of

from forebay.api.inference import Inference
from forebay.core.errors import ForebayError, RequestError


class Parked:
    """`mlp` is loaded again by the first who asks."""

    def __init__(self) -> None:
        self.woken = 0

    def names(self) -> list[str]:
        return ["mlp"]

    def covers(self, model: str) -> bool:
        return model == "mlp"

    def refusal(self, model: str) -> ForebayError:
        return RequestError("there is no such model", code="model_not_found")

    async def wake(self, model: str, version: str | None = None) -> None:
        self.woken += 1


@pytest.mark.parametrize("path", ["/v2/models/mlp/infer", "/v2/models/mlp/generate", "/predictions/mlp"])
async def test_who_wakes_a_model_is_charged_once(make_inference: Callable[..., Inference], path: str) -> None:
    inference = make_inference(requests_per_s=0.5, torchserve_api=True)
    inference.on_demand = parked = Parked()
    row = [1.0, 2.0, 3.0, 4.0]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of(inference)), base_url="http://test") as client:
        body = {"input": {"x": row}} if path.endswith("/infer") else {"x": row}
        answers = [await client.post(path, json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429], answers[0].text
        assert parked.woken
