"""A world for the client's pure core: answers in order, a clock that only moves when it is told to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple, TypeVar

import msgspec

from forebay.client.job_calls import JobCalls
from forebay.client.jobs import JobEvent
from forebay.client.options import ClientOptions
from forebay.client.retries import Retries
from forebay.client.steps import EventSteps, Failure, Open, Opened, Reply, Send, Sleep, Steps

T = TypeVar("T")
MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC)


class Event(NamedTuple):
    """What the next request meets, and how long that takes."""

    outcome: Reply | Failure | Opened | bytes
    takes_s: float = 0.0


class World:
    """Runs steps without a network. `now` is monotonic seconds; midnight is second 0."""

    def __init__(self, *events: Event, chance: float = 0.0) -> None:
        self.now = 0.0
        self.events = list(events)
        self.sent: list[Send] = []
        self.slept: list[float] = []
        self.chance = chance
        self._keys = count(1)

    def calls(self, **options: Any) -> JobCalls:
        kept: ClientOptions = {"retries": Retries(attempts=3, first_wait_s=1.0), **options}  # type: ignore[typeddict-item]
        return JobCalls(
            kept,
            clock=lambda: self.now,
            chance=lambda: self.chance,
            today=lambda: MIDNIGHT + timedelta(seconds=self.now),
            new_key=lambda: f"key-{next(self._keys)}",
        )

    def run(self, steps: Steps[T]) -> T:
        outcome: Reply | Failure | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Sleep):
                self.slept.append(step.seconds)
                self.now += step.seconds
                outcome = None
            else:
                self.sent.append(step)
                event = self.events.pop(0)
                self.now += event.takes_s
                assert isinstance(event.outcome, Reply | Failure)
                outcome = event.outcome

    def follow(self, steps: EventSteps) -> list[JobEvent]:
        """Runs the steps of a stream; the next events are what each `Open` and each `Read` meets."""
        told: list[JobEvent] = []
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration:
                return told
            outcome = None
            if isinstance(step, JobEvent):
                told.append(step)
            elif isinstance(step, Sleep):
                self.slept.append(step.seconds)
                self.now += step.seconds
            else:
                if isinstance(step, Open):
                    self.sent.append(step)
                event = self.events.pop(0)
                self.now += event.takes_s
                outcome = event.outcome

    def documents(self) -> list[dict[str, Any]]:
        """The JSON of every inference request sent."""
        return [document_of(step) for step in self.sent if step.method == "POST"]


def document_of(step: Send) -> dict[str, Any]:
    length = step.headers.get("inference-header-content-length")
    document: dict[str, Any] = json.loads(step.body if length is None else step.body[: int(length)])
    return document


def reply(status: int = 200, document: Any = None, **headers: str) -> Reply:
    named: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, msgspec.json.encode(document))


def answer(value: float = 1.0) -> Reply:
    """An inference answer with one number."""
    tensor = {"name": "y", "datatype": "FP32", "shape": [1], "data": [value]}
    return reply(200, {"model_name": "m", "outputs": [tensor]})


def refusal(status: int, code: str | None, **headers: str) -> Reply:
    document = {"error": "no", **({} if code is None else {"code": code})}
    return reply(status, document, **headers)


METADATA = reply(
    200,
    {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    },
)
