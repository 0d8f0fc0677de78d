"""What an answer from the store may be, how old it is, and that whoever waits for it is answered whatever it holds."""

from __future__ import annotations

import struct
import time
from typing import Any

import msgspec
import pytest
from tests.unit.engine.cached_rig import y
from tests.unit.engine.test_shared_cached import Process, answered, settled, until

from forebay.cache.entry import Entry
from forebay.cache.memory_shared import MemorySharedCache, SharedMemory
from forebay.cache.port import Match, Stored
from forebay.core.caching import CacheAsk, CacheRules
from forebay.core.errors import ExecutionError
from forebay.core.request import Background
from forebay.engine.shared_cached import SharedCachedEngine


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory(time.monotonic, 1 << 20)


def aged(process: Process, by_s: float) -> Entry:
    """The only entry of a process, so much later."""
    memory = process.cache.memory
    memory.settle()
    (key,) = [*memory.entries, *memory.rows]
    entry = memory.peek(key)
    assert entry is not None
    entry.created -= by_s
    entry.refresh_at -= by_s
    entry.stale_until -= by_s
    return entry


async def test_an_answer_is_as_old_elsewhere_as_it_is_here(shared: SharedMemory) -> None:
    here, there = Process(shared), Process(shared)
    await answered(here)
    aged(here, 30.0).refresh_at += 30.0
    await answered(here)
    await settled(here)
    assert len(shared.kept) == 1
    found = await answered(there)
    assert (found.cached.outcome, there.runs) == ("exact", 0)
    assert 30 <= found.cached.age_s < 60
    fresh = Process(shared)
    fresh.ask(3.0, CacheAsk(max_age_s=20.0))
    await until(lambda: fresh.runs)


async def test_an_answer_that_is_shared_when_it_is_stale_ends_when_it_would_have(shared: SharedMemory) -> None:
    here = Process(shared)
    here.engine = SharedCachedEngine(here.inner, CacheRules(60.0, 100.0, False, True), here.cache, here.tier)
    await answered(here)
    await here.engine.share(aged(here, 90.0))
    (digest,) = shared.kept
    (found,), _ = await MemorySharedCache(shared).exchange([(digest, "")])
    assert isinstance(found, Stored)
    assert found.fresh_s < -29
    assert 30 < found.left_s <= 70


async def test_an_answer_that_is_asked_again_while_others_drop_it_is_not_shared(shared: SharedMemory) -> None:
    here = Process(shared)
    await answered(here)
    await MemorySharedCache(shared).drop(Match())  # it is heard of later
    here.ask(3.0)
    await settled(here)
    assert not shared.kept


def with_header(value: bytes, **other: Any) -> bytes:
    """A stored answer whose header says something else."""
    names = ("model", "version", "tenant", "tags", "rows", "shapes", "sizes", "compute_s")
    (length,) = struct.unpack_from("<I", value)
    header = dict(zip(names, msgspec.msgpack.decode(value[4 : 4 + length]), strict=True)) | other
    data = value[4 + length :].ljust(sum(header["sizes"]), b"\0")
    packed = msgspec.msgpack.encode(list(header.values()))
    return struct.pack("<I", len(packed)) + packed + data


WRONG: list[dict[str, Any]] = [
    {"shapes": [[1, 3]]},
    {"shapes": [[1, 2]], "sizes": [8], "rows": 2},
    {"shapes": [[2, 1]], "sizes": [8]},
    {"shapes": [[1, 1], [1, 1]], "sizes": [4, 4]},
    {"shapes": [], "sizes": []},
    {"shapes": [[-1, 1]]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong["shapes"]))
async def test_a_stored_answer_that_is_none_of_this_model_is_a_miss(
    shared: SharedMemory, wrong: dict[str, Any]
) -> None:
    here, there = Process(shared), Process(shared)
    await answered(here)
    await answered(here)
    await settled(here)
    for digest, (kept, since, end) in list(shared.kept.items()):
        value = with_header(kept.value[: -4 if not wrong.get("sizes", True) else None], **wrong)
        shared.kept[digest] = (msgspec.structs.replace(kept, value=value), since, end)
    assert y(await answered(there)) == 6.0
    assert there.runs == 1
    assert y(await answered(there)) == 6.0
    assert there.runs == 1


@pytest.mark.parametrize("background", [None, Background()])
async def test_all_who_wait_for_a_stored_answer_are_told_though_it_cannot_be_given(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch, background: Background | None
) -> None:
    here, there = Process(shared), Process(shared)
    await answered(here)
    await answered(here)
    await settled(here)

    def fails(*arguments: Any) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr("forebay.cache.entry.OutputForm.answer", fails)
    asked = [there.ask(3.0, background=background) for _ in range(3)]
    await until(lambda: len(there.ended) == 3)
    assert all(isinstance(one.error, ExecutionError) for one in asked)
    assert there.runs == 0


async def test_one_who_was_told_is_not_told_otherwise_where_sharing_fails(
    shared: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Process(shared), Process(shared)
    await answered(here)
    await answered(here)
    await settled(here)

    def fails(cost_s: float) -> bool:
        raise RuntimeError("of ours")

    asked = [there.ask(3.0) for _ in range(2)]
    monkeypatch.setattr(there.tier, "pays", fails)
    monkeypatch.setattr(there.engine, "_taken_in", unshared(there.engine._taken_in))  # type: ignore[attr-defined]
    await until(lambda: len(there.ended) == 2)
    assert [y(one) for one in asked] == [6.0, 6.0]


def unshared(taken_in: Any) -> Any:
    """What it takes in is not known to be in the store."""

    def take(*arguments: Any) -> Any:
        entry = taken_in(*arguments)
        entry.shared = False
        return entry

    return take
