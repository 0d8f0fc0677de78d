"""A cascade is open while teacher and student are those that were measured, and else says why it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from tests.unit.api.conftest import FunctionEngine
from tests.unit.api.test_generate import app_of
from tests.unit.engine.cascade_rig import STUDENT, TEACHER, engine, request_of, rules, said
from tests.unit.engine.semantic_rig import soon

from forebay.api.auth import Gate, Keys, Quota
from forebay.api.cascades import Cascades
from forebay.api.inference import Inference
from forebay.core.errors import SetupError
from forebay.core.settings import ServerSettings
from forebay.models.signature import Signature, TensorSpec
from forebay.telemetry.metrics import Metrics

SURE = 7.9


class House:
    """Models that are published by hand."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        gate = Gate(Keys({}), Quota(None, lambda: 0.0))
        self.inference = Inference({}, ServerSettings(), gate)
        self.pairs: set[tuple[str, str]] = set()
        self.cascades = Cascades(self.inference, self.metrics, lambda *pair: self.pairs.add(pair))

    @property
    def told(self) -> str:
        return self.inference.find("large").engine.facts["cascade"]

    async def ask(self, value: float = SURE) -> tuple[int, bytes]:
        """Who answered, and what the header says."""
        endpoint = self.inference.find("large")
        request = request_of((value,))
        endpoint.engine.submit(request)
        await soon(lambda: request.wire)
        request.wire = None  # it has none of the API's own
        return said(request)[0], dict(endpoint.answer(request).headers)[b"x-cascade"]


def large(**changes: Any) -> FunctionEngine:
    made = engine("large", TEACHER)
    made.cascading = rules(**changes)
    return made


def small(digest: str = "small 1") -> FunctionEngine:
    made = engine("small", STUDENT)
    made.digest = digest
    return made


@asynccontextmanager
async def started(*engines: FunctionEngine, must: bool = True) -> AsyncIterator[House]:
    house = House()
    for one in engines:
        house.inference.publish(one)
    try:
        house.cascades.start(lambda model: must)
        yield house
    finally:
        await house.cascades.close()


async def test_it_is_open_once_both_are_there() -> None:
    async with started(large(), small()) as house:
        assert house.pairs == {("large", "small")}
        assert house.told == "on: small answers where it is sure by 0.8000, 80% of the rows it was measured with"
        assert await house.ask() == (STUDENT, b"student")
        assert await house.ask(7.6) == (TEACHER, b"teacher")
        text = house.metrics.text().decode()
        assert 'forebay_cascade_requests_total{answered_by="student",model="large",version="1"} 1.0' in text
        assert 'forebay_cascade_off{model="large",version="1"} 0.0' in text


def other_outputs() -> FunctionEngine:
    made = small()
    made.signature = Signature(made.signature.inputs, (TensorSpec("p", "FP32", (3,)),))
    return made


BAD: list[tuple[str, list[FunctionEngine], str]] = [
    ("none", [large()], r"large: its student 'small' is not served; served beside it: none"),
    ("near name", [large(), engine("smal", STUDENT)], r"'small' is not served; did you mean 'smal'\?"),
    ("other student", [large(), small("small 2")], "was made with another student than the one served; calibrate anew"),
    ("other teacher", [large(teacher="large 0"), small()], "was made with another teacher than the one served"),
    (
        "other outputs",
        [large(), other_outputs()],
        r"student 'small' answers p FP32\[3\], the model itself by INT64\[1\]",
    ),
]


@pytest.mark.parametrize(("engines", "message"), [one[1:] for one in BAD], ids=[one[0] for one in BAD])
async def test_what_is_wrong_stops_the_start_or_is_told(engines: list[FunctionEngine], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        async with started(*engines):
            pass
    async with started(*engines, must=False) as house:
        assert house.told.startswith("off: ")
        assert await house.ask() == (TEACHER, b"teacher")


async def test_generate_tells_who_answered() -> None:
    async with started(large(), small()) as house:
        transport = httpx.ASGITransport(app_of(house.inference))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = [
                (await client.post("/v2/models/large/generate", json={"x": x})).headers["x-cascade"]
                for x in (SURE, 7.6)
            ]
    assert told == ["student", "teacher"]


async def test_students_come_and_go() -> None:
    first, second = small(), small("small 2")
    async with started(large(), must=False) as house:
        assert await house.ask() == (TEACHER, b"teacher")
        house.inference.publish(first)
        await soon(lambda: house.told.startswith("on"))
        assert await house.ask() == (STUDENT, b"student")
        house.inference.publish(second)
        await soon(lambda: "another student" in house.told)
        assert await house.ask() == (TEACHER, b"teacher")
        house.inference.retract(second)
        await soon(lambda: "is not served" in house.told)


async def test_what_nobody_foresaw_is_logged_and_the_next_change_is_noticed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("ERROR")
    async with started(large(), small("small 2"), must=False) as house:
        with monkeypatch.context() as broken:
            broken.setattr("forebay.api.cascades.check_measured", lambda *_: 1 / 0)
            house.inference.publish(small("small 3"))
            await soon(lambda: "looking at the cascades of model large failed" in caplog.text)
        house.inference.publish(small())
        await soon(lambda: house.told.startswith("on"))


async def test_a_fall_lasts_until_the_models_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    teacher = large()
    teacher.cascading = rules(shadow_rate=1.0)
    async with started(teacher, small()) as house:
        before = teacher.function
        teacher.function = lambda x: [before(x)[0], np.ascontiguousarray(before(x)[1][:, ::-1])]
        for _ in range(30):
            await house.ask()
        await soon(lambda: "answered" in house.told)
        assert "answers everything itself from now on: of the last" in caplog.text
        assert await house.ask() == (TEACHER, b"teacher")
        house.inference.publish(small())  # the same files, loaded again
        again = large()
        again.cascading = rules(shadow_rate=1.0)
        house.inference.publish(again)
        await soon(lambda: "answered" in house.told)
        changed = large(teacher="large 2")
        changed.digest = "large 2"
        house.inference.publish(changed)
        await soon(lambda: house.told.startswith("on"))
        assert await house.ask() == (STUDENT, b"student")


async def test_an_engine_stays_for_what_its_student_is_asked() -> None:
    teacher, student = large(), small()
    async with started(teacher, student) as house:
        student.held = []
        request = request_of((7.6,))
        house.inference.find("large").engine.submit(request)
        house.inference.retract(teacher)
        assert house.inference.holds(teacher)
        student.finish(student.held[0])
        assert not house.inference.holds(teacher)
        await soon(lambda: request.wire)
        assert said(request) == [TEACHER]


async def test_at_the_end_what_students_were_asked_goes_to_the_teachers() -> None:
    student = small()
    async with started(large(), student) as house:
        student.held = []
        request = request_of((SURE,))
        house.inference.find("large").engine.submit(request)
        house.cascades.drain()
        await soon(lambda: request.wire)
        assert said(request) == [TEACHER]
