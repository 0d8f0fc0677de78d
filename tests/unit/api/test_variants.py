"""Variants that are served and are as they were measured may answer; of the others it is said why not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest
from tests.unit.api.conftest import FunctionEngine
from tests.unit.engine.cascade_rig import engine, request_of, said
from tests.unit.engine.semantic_rig import soon
from tests.unit.engine.variants_rig import BEST, FAST, FASTEST, measured_one, rules

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.api.variants import Variants
from forebay.core.errors import SetupError
from forebay.core.settings import ServerSettings
from forebay.telemetry.metrics import Metrics


class House:
    """Models that are published by hand."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.inference = Inference({}, ServerSettings(), Gate(Keys({}), Quota(None, lambda: 0.0)))
        self.pairs: set[tuple[str, str]] = set()
        self.variants = Variants(self.inference, self.metrics, lambda *pair: self.pairs.add(pair))

    @property
    def told(self) -> str:
        return self.inference.find("large").engine.facts["variants"]

    async def ask(self, **parameters: Any) -> tuple[int, bytes]:
        """Who answered, and what the header says."""
        endpoint = self.inference.find("large")
        request = request_of((7.9,), parameters=parameters)
        endpoint.engine.submit(request)
        await soon(lambda: request.wire)
        request.wire = None  # it has none of the API's own
        return said(request)[0], dict(endpoint.answer(request).headers)[b"x-model-variant"]


def large(**changes: Any) -> FunctionEngine:
    made = engine("large", BEST)
    made.varying = rules(**changes)
    return made


def named(name: str, digest: str = "") -> FunctionEngine:
    made = engine(name, FAST if name == "fast" else FASTEST)
    made.digest = digest or made.digest
    return made


@asynccontextmanager
async def started(*engines: FunctionEngine, must: bool = True) -> AsyncIterator[House]:
    house = House()
    for one in engines:
        house.inference.publish(one)
    try:
        house.variants.start(lambda model: must)
        yield house
    finally:
        await house.variants.close()


async def test_those_that_are_there_may_answer() -> None:
    async with started(large(), named("fast"), named("fastest")) as house:
        assert house.pairs == {("large", "fast"), ("large", "fastest")}
        assert house.told.split("; ") == [
            "on: fast, accuracy 0.9800 (1.0000 the model itself)",
            "on: fastest, accuracy 0.9000 (1.0000 the model itself)",
        ]
        assert await house.ask() == (BEST, b"large")
        assert await house.ask(variant="fastest") == (FASTEST, b"fastest")
        text = house.metrics.text().decode()
        assert 'forebay_variant_requests_total{model="large",variant="fastest",version="1"} 1.0' in text
        assert 'forebay_variant_level{model="large",version="1"} 0.0' in text


async def test_one_that_leaves_takes_its_metrics_along() -> None:
    model = large()
    async with started(model, named("fast"), named("fastest")) as house:
        assert "forebay_variant_level{" in house.metrics.text().decode()
        house.inference.retract(model)
        await soon(lambda: "forebay_variant_level{" not in house.metrics.text().decode())
        house.inference.publish(model)
        await soon(lambda: "forebay_variant_level{" in house.metrics.text().decode())


@pytest.mark.parametrize(("rows", "falls"), [(100, False), (10_000, True)])
async def test_few_rows_that_all_agreed_say_little(rows: int, falls: bool) -> None:
    """Of 100 rows that all agreed one in thirty may disagree: one in fifty is no reason to fall."""
    small: dict[str, Any] = {
        "rows": rows, "names": ("fast",), "shadow_rate": 1.0, "variants": (measured_one("fast", 1.0),)
    }  # fmt: skip
    fast = named("fast")
    async with started(large(**small), fast) as house:
        before, asked = fast.function, count()
        fast.function = lambda x: [
            before(x)[0], np.ascontiguousarray(before(x)[1][:, ::-1]) if next(asked) % 50 == 25 else before(x)[1]
        ]  # fmt: skip
        for _ in range(400):
            await house.ask()
        assert house.told.startswith("off: fast: of the last" if falls else "on: fast")


BAD: list[tuple[str, list[FunctionEngine], str]] = [
    ("none", [large()], "large: its variant 'fast' is not served; served beside it: none"),
    ("other variant", [large(), named("fast", "fast 2"), named("fastest")], "with another fast than the one served"),
    ("other model", [large(model=measured_one("large", 1.0, digest="large 0")), named("fast"), named("fastest")],
     "were measured with another large than the one served; measure anew"),
]  # fmt: skip


@pytest.mark.parametrize(("engines", "message"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_what_is_wrong_stops_the_start_or_is_told(engines: list[FunctionEngine], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        async with started(*engines):
            pass
    async with started(*engines, must=False) as house:
        assert "off: large: its variant" in house.told
        assert await house.ask() == (BEST, b"large")


async def test_variants_come_and_go() -> None:
    fast = named("fast")
    async with started(large(), named("fastest"), must=False) as house:
        assert house.told.startswith(
            "off: large: its variant 'fast' is not served; did you mean 'fastest'?; on: fastest"
        )
        house.inference.publish(fast)
        await soon(lambda: house.told.startswith("on: fast,"))
        assert await house.ask(variant="fast") == (FAST, b"fast")
        house.inference.retract(fast)
        await soon(lambda: house.told.startswith("off: "))


async def test_one_that_falls_stays_off_until_files_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fast = named("fast")
    async with started(large(names=("fast",), shadow_rate=1.0), fast) as house:
        before = fast.function
        fast.function = lambda x: [before(x)[0], np.ascontiguousarray(before(x)[1][:, ::-1])]
        for _ in range(60):
            await house.ask()
        await soon(lambda: house.told.startswith("off: fast: of the last"))
        assert "variant fast of model large may not answer from now on: of the last" in caplog.text
        assert house.metrics.variants is not None
        (reading,) = house.metrics.variants.models.values()
        assert reading().variants["fast"].off
        house.inference.publish(named("fast"))  # the same files, loaded again
        house.inference.publish(large(names=("fast",), shadow_rate=1.0))
        await soon(lambda: house.told.startswith("off: fast: of the last"))
