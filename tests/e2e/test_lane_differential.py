"""The express lane against the ASGI way: the same bytes, cut at the same offsets, must be answered alike.

In process, over transports without sockets (tests/differential), so that thousands of streams fit into a test. What is
right is said by the tables of `streams.py`; where they are silent, as for mutated streams, the two ways must agree.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.differential import streams
from tests.differential.streams import CLOSE, INFER, JSON, Part, chunked, cut, get, request
from tests.differential.ways import Ending, Outcome, Way

from forebay.api.auth import Keys, key_line
from forebay.core.errors import AdmissionError, DeadlineExceeded, ExecutionError

SECRET = "fb_" + "s" * 43
KEY = b"Authorization: Bearer " + SECRET.encode()
FOLLOWED = [*streams.lane_parts(), *streams.asgi_parts()]
GARBAGE = b"\0garbage\r\n\r\n"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Whatever the parts make the server log is not of interest, and there is a lot of it."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Both:
    """The two ways, asked the same."""

    def __init__(self, **server: Any) -> None:
        given = {
            "max_body_bytes": streams.MAX_BODY_BYTES,
            "decode_off_loop_bytes": streams.SLOW_BODY_BYTES,
            "compress_from_bytes": streams.COMPRESS_FROM_BYTES,
            **server,
        }
        self.lane = Way("auto", **given)
        self.off = Way("off", **given)
        self.engines = [way.engines["mlp"] for way in (self.lane, self.off)]

    async def agree(
        self,
        pieces: Sequence[bytes],
        *,
        held: bool = False,
        ending: Ending = "eof",
        hurry: random.Random | None = None,
    ) -> Outcome:
        """What both ways answer; fails where they differ, hang or leave something behind."""
        try:
            first = await self.lane.exchange(pieces, held=held, ending=ending, hurry=hurry)
            second = await self.off.exchange(pieces, held=held, ending=ending, hurry=hurry)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{held=} {ending=} {pieces!r}") from error
        assert first == second, f"{held=} {ending=} {pieces!r}"
        return first

    async def expect(
        self, parts: Sequence[Part], pieces: Sequence[bytes], *, held: bool = False, hurry: random.Random | None = None
    ) -> None:
        """Both ways answer as the table says."""
        outcome = await self.agree(pieces, held=held, hurry=hurry)
        wanted = [status for part in parts for status in part.statuses]
        assert [reply.status for reply in outcome.replies] == wanted, f"{held=} {pieces!r}"
        assert outcome.closed == any(part.closes for part in parts), f"{held=} {pieces!r}"
        if outcome.closed and outcome.replies:
            assert outcome.replies[-1].closes
        assert not any(reply.closes for reply in outcome.replies[:-1])


def named(parts: Sequence[Part]) -> list[Any]:
    return [pytest.param(part, id=part.name) for part in parts]


@pytest.mark.parametrize("part", named(FOLLOWED))
async def test_a_request_alone_and_among_others(part: Part) -> None:
    both = Both()
    before = [Part("json", request(JSON), (200,)), Part("chunked", chunked(JSON), (200,))]
    broken = Part("garbage", GARBAGE, (400,), True)
    for held in (False, True):
        for parts in ([part], [part, part], [before[0], part, before[0]], [before[1], part], [*before, part, broken]):
            await both.expect(parts, [b"".join(each.data for each in parts)], held=held)


@pytest.mark.parametrize("part", named(streams.last_parts()))
async def test_a_request_that_ends_its_connection(part: Part) -> None:
    both = Both()
    before = [Part("json", request(JSON), (200,)), Part("chunked", chunked(JSON), (200,))]
    for held in (False, True):
        for parts in ([part], [before[0], part], [before[1], part], [*before, before[0], part]):
            data = b"".join(each.data for each in parts)
            for after in (b"", request(JSON), GARBAGE, request(JSON)[:50], request(b"", CLOSE)):
                await both.expect(parts, [data + after], held=held)
            for engine in both.engines:
                engine.runs = 0
            # What follows the last request is not only unanswered: it is not run (RFC 9112, 9.6).
            await both.expect(parts, [data + request(JSON) * 2], held=held)
            runs = sum(each.statuses == (200,) and b"/infer" in each.data for each in parts)
            assert [engine.runs for engine in both.engines] == [runs, runs]


@pytest.mark.parametrize("part", named(streams.tail_parts()))
async def test_an_unfinished_request_is_waited_for(part: Part) -> None:
    both = Both()
    for held in (False, True):
        for before in (b"", request(JSON), chunked(JSON), get(b"/healthz")):
            statuses = (200,) if before else ()
            await both.expect([Part("", before, statuses), part], [before + part.data], held=held)


async def every_offset(parts: Sequence[Part], step: int) -> None:
    both = Both()
    for number, part in enumerate(parts):
        whole = await both.agree([part.data])
        size = min(len(part.data), 1200)
        for at in range(1 + number % step, size, step):
            assert await both.agree(cut(part.data, [at])) == whole, (part.name, at)
            # The client leaves there: nobody waits, nothing stays.
            await both.agree([part.data[:at]], held=True, ending="reset" if at % 2 else "eof")
        if len(part.data) < 1500:
            assert await both.agree(cut(part.data, range(1, len(part.data)))) == whole, part.name


ALL_PARTS = [*FOLLOWED, *(part for part in streams.last_parts() if part.name not in ("garbage",))]


@pytest.mark.parametrize("share", range(4))
async def test_where_a_stream_is_cut_does_not_matter(share: int) -> None:
    await every_offset(ALL_PARTS[share::4], 29)


@pytest.mark.full
@pytest.mark.parametrize("share", range(4))
async def test_where_a_stream_is_cut_does_not_matter_at_all(share: int) -> None:
    await every_offset(ALL_PARTS[share::4], 1)


async def mixed(count: int, seed: int) -> None:
    """Up to twelve requests on one connection, through the lane and around it, as they come."""
    rng = random.Random(seed)
    both = Both()
    lane, last = streams.lane_parts(), streams.last_parts()
    tails = streams.tail_parts()
    for _ in range(count):
        parts = rng.choices(lane if rng.random() < 0.3 else FOLLOWED, k=rng.randint(1, 12))
        if rng.random() < 0.5:
            parts.append(rng.choice(last))
        elif rng.random() < 0.2:
            parts.append(rng.choice(tails))
        pieces = streams.random_cuts(rng, b"".join(part.data for part in parts))
        await both.expect(parts, pieces, held=rng.random() < 0.5, hurry=rng if rng.random() < 0.5 else None)


async def test_mixed_requests_are_answered_in_order() -> None:
    await mixed(300, 1)


@pytest.mark.full
async def test_many_mixed_requests_are_answered_in_order() -> None:
    await mixed(10_000, 2)


async def fuzz(count: int, seed: int) -> None:
    """Mutated streams: both ways agree, nothing is left, and memory stays where it is."""
    rng = random.Random(seed)
    both = Both()
    parts = [part for part in ALL_PARTS + streams.tail_parts() if len(part.data) < 1500]
    levels: list[int] = []
    tracemalloc.start()
    try:
        for number in range(count):
            data = b"".join(part.data for part in rng.choices(parts, k=rng.choice((1, 1, 2, 3, 6))))
            pieces = streams.random_cuts(rng, streams.mutated(rng, data))
            ending: Ending = "reset" if rng.random() < 0.2 else "eof"
            if rng.random() < 0.1:  # what is right may depend on who is first here: only what is left behind counts
                for way in (both.lane, both.off):
                    await way.exchange(pieces, ending=ending, hurry=rng)
            else:
                await both.agree(pieces, held=rng.random() < 0.5, ending=ending)
            if number % (count // 4) == count // 4 - 1:
                gc.collect()
                levels.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(levels[1:]) - levels[0] < 256 << 10, f"memory grows: {levels}"


async def test_mutated_streams() -> None:
    await fuzz(1500, 3)


@pytest.mark.full
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(10, 14))
async def test_a_hundred_thousand_mutated_streams(seed: int) -> None:
    await fuzz(25_000, seed)


# -- what stands in a request's way --------------------------------------------------------------------------------


async def around(both: Both, statuses: tuple[int, ...], *lines: bytes, body: bytes = JSON) -> None:
    """The same request in the lane, in chunks and after others: answered with one of `statuses` each time."""
    for one in (request(body, *lines), chunked(body, *lines), request(body, *lines, b"Expect: 100-continue")):
        for data in (one, one * 3, one + request(body, *lines) + one):
            for pieces in ([data], cut(data, range(1, len(data), 40))):
                outcome = await both.agree(pieces)
                assert {reply.status for reply in outcome.replies} - {100} <= set(statuses), pieces
                assert not outcome.closed


async def test_unauthorized_and_over_quota() -> None:
    both = Both(keys=Keys.parse(key_line("me", SECRET), "test"))
    await around(both, (401,))
    await around(both, (401,), b"Authorization: Bearer wrong")
    await around(both, (200,), KEY)
    await around(both, (200,), b"Authorization: Basic x", KEY)
    outcome = await both.agree([chunked(JSON, trailer=KEY + b"\r\n")])
    assert [reply.status for reply in outcome.replies] == [401]
    await around(Both(requests_per_s=4.0), (200, 429))


@pytest.mark.parametrize("state", ["starting", "failed", "draining"])
async def test_a_model_that_is_not_ready(state: Any) -> None:
    both = Both()
    for engine in both.engines:
        engine.state, engine.reason = state, "because"
    await around(both, (503,))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AdmissionError("full", retry_after_s=1.2), 503),
        (AdmissionError("late", code="deadline_unreachable"), 503),
        (ValueError("unforeseen"), 500),
    ],
)
async def test_what_the_engine_refuses(error: Exception, status: int) -> None:
    both = Both()
    for engine in both.engines:
        engine.refuse_with = error
    await around(both, (status,))
    await around(both, (status,), body=streams.LARGE)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeadlineExceeded("late", stage="queued"), 504),
        (ExecutionError("boom"), 500),
        (ExecutionError("boom", code="instance_crashed"), 500),
        (None, 500),
    ],
)
async def test_what_the_engine_fails(error: ExecutionError | DeadlineExceeded | None, status: int) -> None:
    both = Both()
    for engine in both.engines:
        engine.fail_with = error
        engine.function = lambda x: []  # fits no answer
    await around(both, (status,))
    await around(both, (status,), body=streams.LARGE)


async def test_a_client_that_leaves_takes_its_work_along() -> None:
    both = Both()
    for data in (
        request(JSON) * 5,
        chunked(JSON),
        request(JSON) + chunked(JSON) + request(JSON),
        request(streams.LARGE),
    ):
        for at in (len(data), len(data) - 5, len(data) // 2):
            for way in (both.lane, both.off):
                way.hold(True)
                connection, transport = way.connect()
                connection.data_received(data[:at])
                for _ in range(20):
                    await asyncio.sleep(0)
                await way.end(connection, transport, "reset")


@pytest.mark.parametrize("line", [b"X: " + b"y" * 200_000, b"\r\n".join([b"X-Y: z"] * 20_000)], ids=["long", "many"])
async def test_a_head_without_end(line: bytes) -> None:
    both = Both()
    pieces = cut(request(JSON, line), range(0, 200_000, 8192))
    for before, statuses in ((b"", []), (request(JSON), [200]), (chunked(JSON), [200])):
        for held in (False, True):
            outcome = await both.agree([before, *pieces] if before else pieces, held=held)
            assert [reply.status for reply in outcome.replies] == [*statuses, 431]
            assert outcome.closed
    # In one piece it is read already, and as good as any other.
    assert [reply.status for reply in (await both.agree([request(JSON, line)])).replies] == [200]


@pytest.mark.parametrize("tail", [b"0\r\nX: " + b"y" * 200_000, b"5;" + b"e" * 200_000], ids=["trailer", "extension"])
async def test_trailers_and_extensions_without_end(tail: bytes) -> None:
    both = Both()
    head = request(b"5\r\n" + JSON[:5] + b"\r\n", b"Transfer-Encoding: chunked", length=None)
    outcome = await both.agree(cut(head + tail, range(0, 200_000, 8192)))
    assert [reply.status for reply in outcome.replies] == [431]
    assert outcome.closed


async def test_the_target_of_inference_may_be_long() -> None:
    outcome = await Both().agree([request(JSON, target=INFER + b"?" + b"a" * 30_000)])
    assert [reply.status for reply in outcome.replies] == [200]
