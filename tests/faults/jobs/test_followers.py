"""Those who follow jobs: they vanish, the server goes and comes back, what they are told of gets lost."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.e2e.server import eventually
from tests.faults.jobs.calls import Caller
from tests.faults.jobs.followers import Follower, vanishing
from tests.faults.jobs.houses import House, Kind, house
from tests.faults.jobs.invariants import submitted, witnessing
from tests.faults.jobs.lengths import BOTH, lengths

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + "A" * 22 + "==",
)

CONNECTIONS = 24
"""To the store, which are kept."""


@lengths(("serve", 200), 5000, BOTH, "count")
@pytest.mark.timeout(600)
def test_followers_that_vanish_leave_nothing_behind(tmp_path: Path, kind: Kind, count: int) -> None:
    with house(tmp_path, kind) as found, witnessing(found) as witness, Caller(found.port) as caller:
        web = psutil.Process(found.web.process.pid)
        with found.held() as let_go:
            entries = submitted(witness, caller, 20)
            eventually(lambda: witness.begun(), "jobs run")
            before = web.num_fds()
            with (
                vanishing(found.port, f"/v1/jobs/{entries[0].id}/events", count),
                vanishing(found.port, f"/v1/jobs/{entries[1].id}/ws", count, *UPGRADE),
            ):
                assert web.num_fds() >= before + 2 * count
            eventually(lambda: web.num_fds() <= before + CONNECTIONS, "every file is closed", 30)
            let_go()
        witness.check()


def restart(found: House, *, killed: bool) -> None:
    """Another process answers HTTP; the one before was told to end, or killed."""
    if killed:
        found.kill_part("web")
    else:
        found.web.stop()
        found.ended("web")
    found.restart("web")


async def followed(followers: list[Follower], again: asyncio.Event) -> None:
    """All follow; once each has heard that its job runs, whoever waits for `again` may go on."""
    async with asyncio.TaskGroup() as group:
        for follower in followers:
            group.create_task(follower.run())
        while not all(len(follower.told) > 1 for follower in followers):
            await asyncio.sleep(0.01)
        again.set()


@lengths(("web and worker", (100, 1)), (2000, 2), BOTH, "many")
@pytest.mark.timeout(600)
def test_followers_of_a_server_that_is_restarted_go_on_where_they_were(
    tmp_path: Path, kind: Kind, many: tuple[int, int]
) -> None:
    count, rounds = many
    with house(tmp_path, kind, "--drain-timeout-s", "1", lease_s=30.0) as found, witnessing(found) as witness:
        for number in range(rounds):
            with found.held() as let_go, Caller(found.port) as caller:
                entries = submitted(witness, caller, 2)  # so many a worker always takes, however slow jobs have been
                followers = [Follower(found.port, entries[n % len(entries)].id) for n in range(count)]

                async def go(number: int = number, followers: list[Follower] = followers) -> None:
                    again = asyncio.Event()
                    following = asyncio.create_task(followed(followers, again))
                    await again.wait()
                    await asyncio.to_thread(restart, found, killed=number % 2 == 1)
                    with Caller(found.port) as other:
                        await asyncio.to_thread(submitted, witness, other, 5)
                    let_go()
                    async with asyncio.timeout(120):
                        await following

                asyncio.run(go())
            for follower in followers:
                assert [sequence for sequence, _ in follower.told] == list(range(1, follower.told[-1][0] + 1))
            witness.settle(60)
        witness.check()


@lengths(("serve", 1), 10)
@pytest.mark.timeout(600)
def test_who_waits_is_told_the_end_though_no_change_is_ever_heard_of(tmp_path: Path, kind: Kind, rounds: int) -> None:
    with (
        house(tmp_path, kind, rig={"deaf": True}, rigs="web") as found,
        witnessing(found) as witness,
        Caller(found.port) as caller,
        ThreadPoolExecutor(2) as pool,
        Caller(found.port) as poll,
        Caller(found.port) as stream,
    ):
        for _ in range(rounds):
            with found.held() as let_go:
                (entry,) = submitted(witness, caller, 1)
                polled, streamed = pool.submit(poll.show, entry.id, 30), pool.submit(stream.events, entry.id)
                eventually(lambda: witness.begun(), "it runs")
                let_go()
            assert polled.result()["status"] == "succeeded"
            assert streamed.result()[-1][:2] == (3, "done")
        witness.check()
