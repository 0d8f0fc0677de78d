"""Requests through a store, from a remote engine to a worker and back, with the store in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.unit.api.conftest import FunctionEngine, build_engines

from forebay.core.errors import (
    AdmissionError,
    DeadlineExceeded,
    DependencyError,
    ExecutionError,
    ForebayError,
    RequestError,
)
from forebay.core.request import Listener, Payload, Request, output_array
from forebay.core.tensors import pack_bytes
from forebay.engine.call_codec import AnswerHeader, CallCodec
from forebay.engine.exchange import ASKED_AFTER_S, Exchange
from forebay.engine.remote import RemoteEngine
from forebay.jobs.calls import Call, CallAnswer
from forebay.jobs.directory import Standing
from forebay.jobs.memory_calls import MemoryCalls
from forebay.worker.announcer import served_model
from forebay.worker.calls import CallWorker

TEXT = build_engines()["text"].signature
ROW: Payload = [1.0, 2.0, 3.0, 4.0]


class Store(MemoryCalls):
    """A store that can be out of reach, and lose answers."""

    def __init__(self, clock: Callable[[], float], most_waiting: int = 100) -> None:
        super().__init__(clock, most_waiting=most_waiting)
        self.down = False
        self.loses = 0
        self.sent: list[Call] = []

    async def send(self, calls: Sequence[Call]) -> Sequence[bool]:
        self.sent += calls
        self._check()
        return await super().send(calls)

    async def answer(self, answers: Sequence[CallAnswer]) -> None:
        self._check()
        if self.loses:
            self.loses -= 1
            await self.drop([one.id for one in answers])
        else:
            await super().answer(answers)

    def _check(self) -> None:
        if self.down:
            raise DependencyError("it is down")


@dataclass
class Rig:
    """A caller and workers of the same store. `later_s[0]` is added to the clock of the caller."""

    engines: dict[str, FunctionEngine]
    store: Store
    exchange: Exchange
    later_s: list[float]
    workers: list[CallWorker] = field(default_factory=list)

    def remote(self, name: str = "mlp", workers: Sequence[str] = ("w1",)) -> RemoteEngine:
        return RemoteEngine(Standing(served_model(self.engines[name]), frozenset(workers), 1), self.exchange)

    def worker(self, name: str = "w1", engines: Sequence[FunctionEngine] | None = None) -> CallWorker:
        served = list(self.engines.values()) if engines is None else engines
        worker = CallWorker(self.store, name, lambda: served, time.monotonic)
        self.workers.append(worker)
        worker.start()
        return worker


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    later_s = [0.0]

    def clock() -> float:
        return time.monotonic() + later_s[0]

    store = Store(time.monotonic)
    exchange = Exchange(store, clock)
    exchange.start()
    exchange.seen(["w1", "w2"])
    built = Rig(build_engines(), store, exchange, later_s)
    yield built
    await exchange.close(0.0)
    for worker in built.workers:
        await worker.close(0.0)


def request(
    done: asyncio.Future[Request], payload: Payload = ROW, *, timeout_s: float = 30.0, rows: int = 1
) -> Request:
    now = time.monotonic()
    nbytes = 4 * len(payload)
    return Request([payload], ((4,),), rows, nbytes, deadline=now + timeout_s, arrived=now, on_done=done.set_result)


async def asked(remote: RemoteEngine, timeout_s: float = 30.0, payload: Payload = ROW) -> Request:
    done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
    remote.submit(request(done, payload, timeout_s=timeout_s))
    async with asyncio.timeout(20):
        return await done


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


async def test_a_request_comes_back_with_its_outputs_and_how_it_was_batched(rig: Rig) -> None:
    rig.worker()
    answered = await asked(rig.remote())
    assert answered.error is None
    np.testing.assert_array_equal(output_array(answered, 0, True), np.array([[2, 4]], np.float32))
    assert (answered.batch_rows, answered.queue_s, answered.dispatch_reason) == (1, 0.0015, "idle")
    (seen,) = rig.engines["mlp"].seen
    assert 29.0 < seen.deadline - time.monotonic() <= 30.0


async def test_an_answer_says_which_files_gave_it_though_others_answered_when_the_worker_began(rig: Rig) -> None:
    rig.worker()
    for digest in ("the model's", "a variant's"):
        rig.engines["mlp"].digest = digest
        assert (await asked(rig.remote())).ran_on == digest


async def test_all_that_a_request_says_reaches_the_engine(rig: Rig) -> None:
    rig.worker()
    done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
    sent = request(done, np.arange(8, dtype=np.float32).tobytes(), rows=2)
    sent.priority, sent.parameters, sent.requested, sent.explain = 3, {"a": [1, None]}, (0,), True
    rig.remote().submit(sent)
    await done
    (seen,) = rig.engines["mlp"].seen
    assert (seen.rows, seen.nbytes, seen.priority, seen.parameters) == (2, sent.nbytes, 3, {"a": [1, None]})
    assert (seen.requested, seen.explain, seen.shapes) == ((0,), True, ((4,),))
    assert rig.store.sent[0].level == 2


@pytest.mark.parametrize(
    "error",
    [
        AdmissionError("too busy", code="deadline_unreachable", retry_after_s=3.5),
        DeadlineExceeded("late", stage="executing"),
        ExecutionError("it raised", code="model_error"),
        RequestError("no such thing", code="unsupported"),
    ],
)
async def test_an_error_arrives_as_what_it_is(rig: Rig, error: ForebayError) -> None:
    rig.worker()
    rig.engines["mlp"].fail_with = error
    found = (await asked(rig.remote())).error
    assert type(found) is type(error)
    assert vars(found) == vars(error)


async def test_an_error_that_nobody_foresaw_stays_at_the_worker(rig: Rig) -> None:
    rig.worker()
    rig.engines["mlp"].refuse_with = ValueError("a secret of the worker")
    found = (await asked(rig.remote())).error
    assert found is not None
    assert found.code == "internal"
    assert "secret" not in found.message


async def test_a_request_that_a_draining_engine_refuses_goes_to_another_worker(rig: Rig) -> None:
    draining = build_engines()["mlp"]
    draining.refuse_with = AdmissionError("it ends", code="draining")
    rig.worker("w1", [draining])
    remote = rig.remote()
    asking = asyncio.ensure_future(asked(remote))
    await until(lambda: rig.store.sent)
    await asyncio.sleep(0.02)
    draining.state = "draining"
    rig.worker("w2", [rig.engines["mlp"]])
    assert (await asking).error is None
    assert len(rig.engines["mlp"].seen) == 1


async def test_a_request_ends_at_its_deadline_whatever_happens(rig: Rig) -> None:
    found = (await asked(rig.remote(), timeout_s=0.05)).error
    assert isinstance(found, DeadlineExceeded)
    assert found.stage == "waiting"


async def test_a_full_queue_is_told_at_once(rig: Rig) -> None:
    small = Store(time.monotonic, most_waiting=0)
    exchange = Exchange(small, time.monotonic)
    rig.exchange = exchange
    found = (await asked(rig.remote())).error
    assert isinstance(found, AdmissionError)
    assert (found.code, found.retry_after_s) == ("queue_full", 1.0)


async def test_a_store_out_of_reach_is_told_at_once(rig: Rig) -> None:
    rig.store.down = True
    found = (await asked(rig.remote())).error
    assert isinstance(found, DependencyError)


async def test_an_answer_waits_for_a_store_that_comes_back(rig: Rig) -> None:
    rig.worker()
    engine = rig.engines["mlp"]
    engine.held = []
    asking = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: engine.seen)
    rig.store.down = True
    engine.finish(engine.seen[0])
    await asyncio.sleep(0.05)
    assert not asking.done()
    rig.store.down = False
    assert (await asking).error is None


async def test_a_request_whose_worker_vanishes_is_sent_again_once(rig: Rig) -> None:
    engine, second = rig.engines["mlp"], build_engines()["mlp"]
    engine.held = second.held = []
    rig.worker("w1", [engine])
    asking = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: engine.seen)
    rig.workers[0].stop()
    rig.later_s[0] = ASKED_AFTER_S
    rig.exchange.seen(["w2"])
    await until(lambda: len(rig.store.sent) == 2)
    rig.worker("w2", [second])
    await until(lambda: second.seen)
    rig.later_s[0] = 3 * ASKED_AFTER_S
    rig.exchange.seen([])
    await asyncio.sleep(0.5)
    assert len(rig.store.sent) == 2
    assert rig.store.sent[0].id != rig.store.sent[1].id
    second.finish(second.seen[0])
    assert (await asking).error is None
    engine.finish(engine.seen[0])  # too late: the first answer stands
    await asyncio.sleep(0.01)


async def test_a_request_whose_worker_is_there_is_left_with_it(rig: Rig) -> None:
    engine = rig.engines["mlp"]
    engine.held = []
    rig.worker("w1", [engine])
    asking = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: engine.seen)
    rig.later_s[0] = ASKED_AFTER_S
    rig.exchange.seen(["w1"])
    await asyncio.sleep(0.4)
    assert len(rig.store.sent) == 1
    engine.finish(engine.seen[0])
    assert (await asking).error is None


async def test_a_request_whose_answer_was_lost_is_sent_again(rig: Rig) -> None:
    rig.store.loses = 1
    rig.worker()
    asking = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: len(rig.engines["mlp"].seen) == 1 and not rig.store.loses)
    rig.later_s[0] = ASKED_AFTER_S
    rig.exchange.seen(["w1"])
    assert (await asking).error is None
    assert len(rig.store.sent) == 2


async def test_a_caller_that_leaves_takes_its_call_with_it(rig: Rig) -> None:
    remote = rig.remote()
    done: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
    sent = request(done)
    remote.submit(sent)
    await until(lambda: rig.store.sent)
    remote.cancel(sent)
    remote.cancel(sent)
    while await rig.store.where([rig.store.sent[0].id]) != [""]:
        await asyncio.sleep(0.002)
    rig.worker()
    await asyncio.sleep(0.05)
    assert not rig.engines["mlp"].seen
    assert not done.done()
    assert (remote.in_flight, remote.metrics.canceled) == (0, 1)


async def test_a_remote_engine_without_workers_refuses_and_says_why(rig: Rig) -> None:
    remote = rig.remote(workers=())
    assert remote.state == "failed"
    with pytest.raises(AdmissionError, match="no worker that serves it is there now"):
        remote.submit(request(asyncio.get_running_loop().create_future()))


async def test_pieces_of_an_answer_are_refused(rig: Rig) -> None:
    sent = request(asyncio.get_running_loop().create_future())
    sent.listener = Listener(lambda row, outputs: None, lambda row, fraction: None)
    with pytest.raises(RequestError, match="answers in pieces") as caught:
        rig.remote().submit(sent)
    assert caught.value.code == "unsupported"


async def test_a_worker_takes_no_more_than_it_has_room_for(rig: Rig) -> None:
    engine = rig.engines["mlp"]
    engine.held, engine.best_rows, engine.instances = [], 1, 1
    rig.worker("w1", [engine])
    asking = [asyncio.ensure_future(asked(rig.remote())) for _ in range(5)]
    await until(lambda: len(engine.seen) == 2)
    await asyncio.sleep(0.05)
    assert len(engine.seen) == 2
    engine.held = None
    for one in engine.seen[:2]:
        engine.finish(one)
    assert [(await one).error for one in asking] == [None] * 5


async def test_a_worker_that_stops_answers_what_it_has_taken_and_takes_no_more(rig: Rig) -> None:
    engine = rig.engines["mlp"]
    engine.held = []
    worker = rig.worker("w1", [engine])
    first = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: engine.seen)
    worker.stop()
    second = asyncio.ensure_future(asked(rig.remote(), timeout_s=0.3))
    closing = asyncio.ensure_future(worker.close(10.0))
    await asyncio.sleep(0.02)
    assert not closing.done()
    engine.finish(engine.seen[0])
    await closing
    assert (await first).error is None
    assert isinstance((await second).error, DeadlineExceeded)


async def test_a_process_that_ends_waits_for_answers_and_then_fails_the_rest(rig: Rig) -> None:
    asking = asyncio.ensure_future(asked(rig.remote()))
    await until(lambda: rig.store.sent)
    await rig.exchange.close(0.02)
    found = (await asking).error
    assert isinstance(found, AdmissionError)
    assert found.code == "draining"


ODD = CallCodec(TEXT)._framed
"""An answer of a header and buffers, which need not fit together."""


@pytest.mark.parametrize(
    "body",
    [
        b"\x01",
        ODD(AnswerHeader(None, [(7, (1, 1), 3)]), [b"abc"]),
        ODD(AnswerHeader(None, [(0, (1, 1), 3)]), [b"abc"]),
        ODD(AnswerHeader(None, [(0, (1, 1), 4)]), [b"\0\0\0\0\0"])[:-5],
    ],
    ids=["no header", "no such output", "half a text", "nothing behind its header"],
)
async def test_whatever_cannot_be_read_of_an_answer_its_caller_is_told(
    rig: Rig, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    asking = asyncio.ensure_future(asked(rig.remote("text"), payload=pack_bytes([b"a"])))
    await until(lambda: rig.store.sent)
    await rig.store.answer([CallAnswer(rig.store.sent[0].id, body)])
    found = (await asking).error
    assert isinstance(found, ExecutionError)
    assert found.code == "output_mismatch"
    assert "a worker's answer cannot be read" in caplog.text


async def test_a_value_that_its_datatype_cannot_hold_is_refused(rig: Rig) -> None:
    remote = rig.remote()
    with pytest.raises(ExecutionError, match="could not be sent"):
        remote.submit(request(asyncio.get_running_loop().create_future(), [1e300, 0.0, 0.0, 0.0]))
    assert remote.in_flight == 0
