"""What workers announce is what a process without engines serves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.unit.api.conftest import build_engines

from forebay.api import remote_models
from forebay.api.auth import Gate, Keys, Quota
from forebay.api.inference import Inference
from forebay.api.remote_models import RemoteModels
from forebay.core.errors import AdmissionError, DependencyError, RequestError
from forebay.core.settings import ServerSettings
from forebay.engine.exchange import Exchange
from forebay.engine.remote import RemoteEngine
from forebay.jobs.directory import Announced, Known, ServedModel
from forebay.jobs.memory_calls import MemoryCalls
from forebay.jobs.memory_directory import MemoryDirectory
from forebay.telemetry.metrics import Metrics
from forebay.worker.announcer import served_model


class Directory(MemoryDirectory):
    """One that can be out of reach."""

    down = False

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.looks: list[Known] = []

    def empty(self) -> None:
        """All that it knew is gone."""
        MemoryDirectory.__init__(self, time.monotonic)

    async def look(self) -> Known:
        if self.down:
            raise DependencyError("it is down")
        found = await super().look()
        self.looks.append(found)
        return found


@dataclass
class Place:
    directory: Directory
    inference: Inference
    models: RemoteModels
    looked: list[Known]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    directory = Directory()
    inference = Inference({}, ServerSettings(), Gate(Keys({}), Quota(None, time.monotonic)))
    exchange = Exchange(MemoryCalls(time.monotonic), time.monotonic)
    looked: list[Known] = []
    models = RemoteModels(
        directory, inference, Metrics(), lambda standing: RemoteEngine(standing, exchange), looked.append
    )
    yield Place(directory, inference, models, looked)
    await models.close()


def served(name: str = "mlp", **more: Any) -> ServedModel:
    model = served_model(build_engines()[name])
    return ServedModel(**{field: getattr(model, field) for field in model.__struct_fields__} | more)


def known(*workers: ServedModel, last: tuple[ServedModel, ...] = ()) -> Known:
    return Known(
        {f"w{order}": {one.name: Announced(order, (one,))} for order, one in enumerate(workers)},
        {one.name: Announced(0, (one,)) for one in (*last, *workers)},
    )


async def test_before_the_first_look_a_model_is_not_unknown_but_not_ready(place: Place) -> None:
    with pytest.raises(AdmissionError, match="has not been reached yet") as caught:
        place.inference.find("mlp")
    assert caught.value.code == "model_not_ready"
    place.models.take(known())
    with pytest.raises(RequestError, match="there is no model"):
        place.inference.find("mlp")


async def test_models_come_with_their_workers_and_stay_without_them(place: Place) -> None:
    place.models.take(known(served()))
    endpoint = place.inference.find("mlp")
    place.inference.admit(endpoint)
    place.models.take(known(last=(served(),)))
    assert place.inference.find("mlp") is endpoint
    with pytest.raises(AdmissionError, match="jobs are accepted"):
        place.inference.admit(endpoint)
    place.models.take(known())
    with pytest.raises(RequestError):
        place.inference.find("mlp")


async def test_jobs_of_a_model_without_workers_are_let_in_where_they_may_wait(place: Place) -> None:
    place.models.take(known(last=(served(),)))
    endpoint = place.inference.find("mlp")
    with pytest.raises(AdmissionError):
        place.inference.admit_job(endpoint)
    place.inference.jobs_wait = True
    place.inference.admit_job(endpoint, 10)
    with pytest.raises(RequestError, match="larger than"):
        place.inference.admit_job(endpoint, 1 << 40)


async def test_what_is_measured_anew_needs_no_new_endpoint_and_another_form_does(place: Place) -> None:
    place.models.take(known(served()))
    endpoint = place.inference.find("mlp")
    place.models.take(known(served(instances=7, digest="other")))
    assert place.inference.find("mlp") is endpoint
    assert endpoint.engine.instances == 7
    two = served("two")
    place.models.take(known(served(signature=two.signature)))
    assert place.inference.find("mlp").engine.signature == two.signature


async def test_a_request_let_in_for_a_form_that_is_gone_is_still_sent(place: Place) -> None:
    place.models.take(known(served()))
    endpoint = place.inference.find("mlp")
    endpoint.arriving += 1
    place.models.take(known(served(labels=("a", "b"))))
    assert place.inference.holds(endpoint.engine)
    assert endpoint.engine.state == "ready"


async def test_workers_that_differ_are_told_of_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            place.models.take(known(served(digest="a"), served(digest="b")))
    assert [record.getMessage() for record in caplog.records] == [
        "workers have mlp version 1 with another digest; the one announced last counts"
    ]


async def test_it_looks_when_there_are_news_and_goes_on_after_a_failure(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="forebay")
    place.directory.down = True
    place.models.start()
    async with asyncio.timeout(20):
        # Why, the log says: clients, and whoever asks whether it is ready, learn no names of hosts.
        while place.models.reason != "the server's store cannot be reached; try again":
            await asyncio.sleep(0.01)
        assert place.inference.not_started == place.models.reason
        assert "it is not known what workers have: it is down" in caplog.text
        place.directory.down = False
        while place.models.reason:
            await asyncio.sleep(0.01)
        await place.directory.announce("w1", [served()])
        while "mlp" not in place.inference.engines:
            await asyncio.sleep(0.01)
    assert place.looked[-1].workers.keys() == {"w1"}


async def test_of_a_store_that_was_emptied_models_are_kept_until_workers_have_told_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_models, "RENEW_EVERY_S", 0.01)
    monkeypatch.setattr(remote_models, "EMPTY_FOR_S", 0.3)
    await place.directory.announce("w", [served()])
    place.models.start()
    await until(lambda: bool(place.models.engines))
    endpoint = place.inference.find("mlp")
    place.directory.empty()
    looks = len(place.directory.looks)
    await until(lambda: len(place.directory.looks) > looks + 2)
    assert place.inference.find("mlp") is endpoint
    await place.directory.announce("w", [served()])
    looks = len(place.directory.looks)
    await until(lambda: len(place.directory.looks) > looks + 2)
    assert place.inference.find("mlp") is endpoint
    place.directory.empty()  # and nobody comes back
    await until(lambda: not place.models.engines)
    with pytest.raises(RequestError, match="there is no model"):
        place.inference.find("mlp")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)
