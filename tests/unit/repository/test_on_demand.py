"""Models that were unloaded to make room: a request loads them again, and a load that fails is not the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from forebay.core.errors import AdmissionError, RequestError, SetupError
from forebay.repository.on_demand import FIRST_PAUSE_S, MOST_PAUSE_S, OnDemand, Parked
from forebay.repository.states import Asked
from forebay.testing import FakeClock

BROKEN = SetupError("model b: model.py is broken", code="model_load_error")


class House:
    """One parked model, `b`. `fails`: what its load raises; `offered`: its versions."""

    def __init__(self, fails: BaseException | None = None) -> None:
        self.fails = fails
        self.offered: Sequence[str] = ("1", "2")
        self.loads = 0
        self.clock = FakeClock()
        self.models = OnDemand(self.load, self.versions, self.clock)
        self.models.park("b", Parked(Asked(), 5.0))

    async def load(self, name: str, asked: Asked) -> None:
        self.loads += 1
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.models.forget(name)

    async def versions(self, name: str, asked: Asked) -> Sequence[str]:
        return self.offered

    async def refused(self, version: str | None = None) -> AdmissionError:
        with pytest.raises(AdmissionError) as raised:
            await self.models.wake("b", version)
        assert raised.value.code == "model_not_ready"
        return raised.value


async def test_requests_at_the_same_time_share_a_load() -> None:
    house = House()
    await asyncio.gather(*(house.models.wake("b", version) for version in (None, "1", None, "2")))
    assert (house.loads, house.models.covers("b")) == (1, False)
    await house.models.wake("b")
    assert house.loads == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BROKEN, "model.py is broken"),
        (OSError("a path"), "OSError"),
        (SetupError("large", code="memory_limit"), "large"),
    ],
)
async def test_a_model_that_fails_is_loaded_by_a_later_request(error: BaseException, said: str) -> None:
    house = House(error)
    assert said in (await house.refused()).message
    assert house.models.covers("b")
    house.fails = None
    refused = await house.refused()
    assert said in refused.message
    assert 0 < refused.retry_after_s <= FIRST_PAUSE_S
    assert house.loads == 1, "it is left alone for a moment"
    house.clock.advance(FIRST_PAUSE_S)
    await house.models.wake("b")
    assert (house.loads, house.models.covers("b")) == (2, False)


async def test_what_goes_on_failing_is_tried_less_and_less() -> None:
    house = House(BROKEN)
    pauses = []
    for _ in range(9):
        loads = house.loads
        pauses.append((await house.refused()).retry_after_s)
        assert house.loads == loads + 1
        house.clock.advance(pauses[-1])
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MOST_PAUSE_S, MOST_PAUSE_S, MOST_PAUSE_S]
    house.fails = None
    await house.models.wake("b")
    house.models.park("b", Parked(Asked(), 5.0))
    house.fails = BROKEN
    assert (await house.refused()).retry_after_s == FIRST_PAUSE_S


async def test_what_needs_no_load_is_told_the_same() -> None:
    house = House(BROKEN)
    first = house.models.refusal("b")
    assert isinstance(first, AdmissionError)
    assert "the next request for inference loads it" in first.message
    refused = await house.refused()
    assert house.models.refusal("b").message == refused.message
    house.fails = RequestError("there is no model 'b' to load", code="model_not_found")
    house.clock.advance(FIRST_PAUSE_S)
    for _ in range(2):
        with pytest.raises(RequestError, match="no model 'b'"):
            await house.models.wake("b")
    gone = house.models.refusal("b")
    assert (type(gone), gone.code) == (RequestError, "model_not_found")
    house.fails = None
    house.clock.advance(MOST_PAUSE_S)
    await house.models.wake("b")
    assert not house.models.covers("b"), "its files are there again"


async def test_without_room_the_next_request_tries_again_at_once() -> None:
    house = House(AdmissionError("no room", code="model_not_ready"))
    assert (await house.refused()).message == "no room"
    assert (await house.refused()).message == "no room"
    assert house.loads == 2


async def test_a_version_that_is_not_there_loads_nothing() -> None:
    house = House()
    with pytest.raises(RequestError, match="no version '9'; it has 1, 2") as raised:
        await house.models.wake("b", "9")
    assert (raised.value.code, house.loads, house.models.covers("b")) == ("model_not_found", 0, True)
    house.offered = ()  # only the load can tell what is wrong
    await house.models.wake("b", "9")
    assert house.loads == 1
