"""Bodies that are too large or make no sense, and jobs that another release has stored."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.e2e.server import eventually
from tests.e2e.wire import request, wire
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.conftest import ATTEMPTS, MOST_BODY_BYTES
from tests.faults.jobs.houses import BASE, House
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.lengths import repeated

from forebay.jobs.redis_codec import packed_id

PATH = "/v1/models/tallied/jobs"


def test_a_body_at_the_limit_is_taken_and_a_larger_one_is_not_even_read(shared: House) -> None:
    with witnessing(shared) as witness, Caller(shared.port) as caller:
        value = witness.ledger.value()
        body = json.dumps({"input": {"x": [value]}}).encode()
        largest = body.ljust(MOST_BODY_BYTES)
        witness.ledger.accept(caller.ask(PATH, largest).json()["id"], value)
        assert caller.ask(PATH, largest + b" ").status == 413
        with wire(shared.port) as connection:
            head = request(PATH, largest * 10).partition(b"\r\n\r\n")[0]
            reply = connection.send(head + b"\r\n\r\n").reply()
            assert (reply.status, reply.json()["code"]) == (413, "payload_too_large")
        witness.check()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"input":{"x":["a"]}}', b'{"input":{"x":[1]},"ttl_s":-1}', b'{"input":{"x":[1]},"t":1}'],
)
def test_a_body_that_makes_no_sense_is_refused(shared: House, body: bytes) -> None:
    with Caller(shared.port) as caller:
        reply = caller.ask(PATH, body)
        assert reply.status in (400, 422)
        assert reply.headers["content-type"] == "application/problem+json"


@repeated(10)
@pytest.mark.timeout(600)
def test_jobs_of_other_releases_run_where_they_are_of_the_same_version_and_else_fail(
    shared: House, rounds: int
) -> None:
    def changed(id: str, change: dict[str, Any] | bytes) -> None:
        """As another release would have stored it."""
        key = BASE.encode() + b"j:" + packed_id(id)
        if isinstance(change, dict):
            change = msgspec.msgpack.encode(msgspec.msgpack.decode(shared.ask("HGET", key, "d")) | change)
        shared.ask("HSET", key, "d", change)

    with witnessing(shared) as witness, Caller(shared.port) as caller:
        for _ in range(rounds):
            with shared.held() as let_go:
                submitted(witness, caller, 100)
                eventually(lambda: witness.begun(), "jobs run")
                newer, older, other, strange = entries = submitted(witness, caller, 4)
                changed(newer.id, {"colour": "blue", "nested": {"a": [1]}})
                changed(older.id, msgspec.msgpack.encode({"id": "", "model": "tallied", "tenant": "anonymous"}))
                changed(other.id, {"envelope": 2})
                changed(strange.id, b"\x81\xa5model\x01")
                other.expected = strange.expected = "unsupported"
                listed = [job["id"] for job in caller.ask("/v1/jobs?limit=4").json()["jobs"]]
                assert listed == [entry.id for entry in reversed(entries)]
                let_go()
            witness.settle(60)
            for entry, attempts in ((newer, 1), (older, 1), (other, ATTEMPTS), (strange, ATTEMPTS)):
                assert entry.seen is not None
                assert entry.seen["attempt"] == attempts
        witness.check()
