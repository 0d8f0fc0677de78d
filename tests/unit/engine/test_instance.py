"""The engine's end and a real instance process: load, run, fail, large batches, death, ending."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import Gate, eventually, tiny

from forebay.core.request import Outputs
from forebay.core.tensors import Array
from forebay.engine import arena, assemble, frames
from forebay.engine.instance import LATER_NICE, Instance, LoadPlan
from forebay.engine.kept_inputs import kept_of
from forebay.models.signature import Signature
from forebay.models.source import ModelSource

INLINE_BYTES = 4096


class Owner:
    """Keeps what the instance says. Outputs are taken off the arena at once, as the engine does."""

    def __init__(self) -> None:
        self.ready: list[frames.ReadyHeader] = []
        self.done: list[Outputs] = []
        self.offsets: list[int] = []
        self.failed: list[frames.FailedHeader] = []
        self.lost: list[str] = []
        self.streamed: list[tuple[int, bytes, memoryview]] = []

    @property
    def signature(self) -> Signature:
        return self.ready[0].signature

    def on_ready(self, instance: Instance, header: frames.ReadyHeader) -> None:
        self.ready.append(header)

    def on_done(self, instance: Instance, header: frames.DoneHeader, payload: memoryview) -> None:
        rows = instance.flights.pop(header.batch_id)
        self.offsets.append(header.outputs[0].offset)
        self.done.append(assemble.scatter(self.signature, header.outputs, payload, instance.arena.view, rows))

    def on_failed(self, instance: Instance, header: frames.FailedHeader) -> None:
        instance.flights.pop(header.batch_id)
        self.failed.append(header)

    def on_streamed(self, instance: Instance, kind: int, header: bytes, payload: memoryview) -> None:
        self.streamed.append((kind, header, payload))

    def on_lost(self, instance: Instance, reason: str) -> None:
        self.lost.append(reason)


@asynccontextmanager
async def started(source: ModelSource, measure_s: float = 0.0) -> AsyncIterator[tuple[Instance, Owner]]:
    owner = Owner()
    instance = Instance(0, LoadPlan(source, "cpu", 1, 8, measure_s, INLINE_BYTES), owner)
    await instance.start()
    try:
        await eventually(lambda: owner.ready or owner.lost)
        yield instance, owner
    finally:
        await instance.close()


def send(instance: Instance, owner: Owner, *rows: Array) -> None:
    """One request of one row each."""
    items = [request([row.astype("<f4").tobytes()], [row.shape]) for row in rows]
    parts, counts, groups = assemble.gather(owner.signature, items)
    instance.send(len(items), len(items), counts, parts, groups)


async def test_it_tells_what_the_model_is(tmp_path: Path) -> None:
    async with started(tiny(tmp_path, "max_batch_rows = 2"), measure_s=5.0) as (_, owner):
        header = owner.ready[0]
        assert header.platform == "python"
        assert [spec.name for spec in header.signature.outputs] == ["y", "rows"]
        assert header.settings == {"max_batch_rows": 2}
        assert len(header.digest) == 64
        # `rows` differs between a row alone and a batch of two.
        assert (header.batchable, "'rows'" in header.reason) == (False, True)
        assert {rows for rows, _, _ in header.costs} == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="threads are found in /proc")
async def test_one_that_gives_way_does_so_with_all_its_threads(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        before = os.getpriority(os.PRIO_PROCESS, 0)
        instance.give_way()
        instance.give_way()
        threads = [int(name) for name in os.listdir(f"/proc/{instance.pid}/task")]
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {max(before, LATER_NICE)}
        assert os.getpriority(os.PRIO_PROCESS, 0) == before
        send(instance, owner, np.array([1.0]))
        await eventually(lambda: owner.done)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are found in /proc")
async def test_it_is_kept_to_some_cores_with_all_threads_but_those_that_its_model_has_pinned(tmp_path: Path) -> None:
    everywhere = frozenset(os.sched_getaffinity(0))
    if len(everywhere) < 2:
        pytest.skip("one core only")
    first, rest = frozenset({min(everywhere)}), everywhere - {min(everywhere)}
    pausing = "__import__('threading').Thread(target=time.sleep, args=(600,), daemon=True).start()"
    async with started(tiny(tmp_path, pausing)) as (instance, owner):
        *others, pinned = (int(name) for name in os.listdir(f"/proc/{instance.pid}/task"))
        assert others
        os.sched_setaffinity(pinned, first)
        instance.keep_to(rest, everywhere)
        assert {frozenset(os.sched_getaffinity(thread)) for thread in others} == {rest}
        assert os.sched_getaffinity(pinned) == first
        instance.keep_to(everywhere, rest)
        assert {frozenset(os.sched_getaffinity(thread)) for thread in others} == {everywhere}
        assert os.sched_getaffinity(pinned) == first
        assert os.sched_getaffinity(0) == everywhere
        send(instance, owner, np.array([1.0]))
        await eventually(lambda: owner.done)
    instance.keep_to(rest, everywhere)  # it has ended: nothing happens


async def test_batches_of_equal_and_of_different_lengths(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        send(instance, owner, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
        send(instance, owner, np.array([1.0]), np.array([2.0, 3.0, 4.0]), np.array([]))
        await eventually(lambda: len(owner.done) == 2)
        assert owner.done[0].arrays[0].tolist() == [[2, 4], [6, 8]]
        assert owner.done[1].arrays[0].tolist() == [[2, 0, 0], [4, 6, 8], [0, 0, 0]]
        assert owner.done[1].arrays[1].tolist() == [3, 3, 3]


async def test_large_batches_go_through_shared_memory_both_ways(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        large = [np.arange(50_000.0) + number for number in range(5)]
        for number, row in enumerate(large):
            send(instance, owner, row, row)
            await eventually(lambda n=number: len(owner.done) >= n)  # type: ignore[misc] # at most two at a time
        await eventually(lambda: len(owner.done) == 5)
        for row, outputs in zip(large, owner.done, strict=True):
            np.testing.assert_array_equal(outputs.arrays[0], np.stack([row, row]).astype("<f4") * 2)
        assert all(offset >= 2 * arena.SLOT_BYTES for offset in owner.offsets)


async def test_what_does_not_fit_into_shared_memory_goes_through_the_socket(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        row = np.ones((arena.SLOT_BYTES + 4) // 4)
        send(instance, owner, row)
        await eventually(lambda: owner.done)
        assert owner.offsets == [-1]
        assert owner.done[0].arrays[0].sum() == 2 * row.size


async def test_a_run_that_fails_is_told_and_the_next_one_is_well(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        for bad, code, message in ((-1.0, "model_error", "ValueError: minus one"), (-3.0, "out_of_memory", "minus")):
            send(instance, owner, np.array([bad]))
            send(instance, owner, np.array([5.0]))
            await eventually(lambda: not instance.flights)
            assert owner.failed[-1].code == code
            assert message in owner.failed[-1].message
            assert owner.done[-1].arrays[0].tolist() == [[10.0]]
        assert instance.flights == {}


async def test_a_payload_that_does_not_fill_its_shape_fails_its_own_batch(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        instance.send(1, 1, [], [frames.InputPart([(3,)], 8, -1)], [[bytes(8)]])
        send(instance, owner, np.array([5.0]))
        await eventually(lambda: owner.failed and owner.done)
        assert owner.failed[0].code == "model_error"


async def test_a_message_that_no_frame_can_carry_is_made_fit(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    path = Path(source.path)
    path.write_text(path.read_text().replace('"minus one"', '"\\ud800" + "x" * 5000'))
    async with started(source) as (instance, owner):
        send(instance, owner, np.array([-1.0]))
        await eventually(lambda: owner.failed or owner.lost)
        assert owner.failed[0].message.startswith("ValueError: ?xxx")
        assert len(owner.failed[0].message) == 2000


async def test_the_death_of_the_process_is_told_once(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        send(instance, owner, np.array([-2.0]))
        await eventually(lambda: owner.lost)
        assert owner.lost == [f"the instance process {instance.pid} ended with exit code 3"]
        assert list(instance.flights.values()) == [1]
        assert not instance.ready
        send(instance, owner, np.array([1.0]))  # nobody hears it; nothing breaks
        await asyncio.sleep(0)
    assert len(owner.lost) == 1


async def test_a_kill_has_its_reason(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        instance.kill("it was in the way")
        await eventually(lambda: owner.lost)
        assert owner.lost == ["it was in the way"]


@pytest.mark.parametrize("noise", [frames.HEAD.pack(0xFFFFFFFF, 1, 1), frames.pack(frames.DONE, "not a header")])
async def test_an_answer_that_cannot_be_understood_ends_the_instance(tmp_path: Path, noise: bytes) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        instance.data_received(noise)
        await eventually(lambda: owner.lost)
        assert "cannot be understood" in owner.lost[0]
        await eventually(lambda: not Path(f"/proc/{instance.pid}/cmdline").exists())


async def test_closing_ends_the_process_quietly(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        pid = instance.pid
    assert owner.lost == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_closing_does_not_wait_for_a_call_that_nobody_waits_for(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with started(tiny(tmp_path)) as (instance, owner):
        gate.close()
        send(instance, owner, np.array([1.0]))
        pid = instance.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("import os\n", "import os\n1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def predict", "def load(self, device): raise OSError('no weights')\n\n    def predict", "no weights"),
        (
            "def predict",
            "def examples(self): return [{'x': 'a'}]\n    inputs = {'x': ('FP32', [2])}\n\n    def predict",
            "examples() gives a 'x'",
        ),
        ("def predict", "def load(self, device): os._exit(7)\n\n    def predict", "ended with exit code 7"),
        ("class Tiny", "class Other", "has no forebay.Model subclass 'Tiny'; it has: Other"),
    ],
)
async def test_a_model_that_does_not_load_says_why(tmp_path: Path, old: str, new: str, reason: str) -> None:
    source = tiny(tmp_path)
    path = Path(source.path)
    path.write_text(path.read_text().replace(old, new, 1))
    async with started(source) as (_, owner):
        assert owner.ready == []
        assert reason in owner.lost[0]


async def test_it_shows_inputs_to_measure_with(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, owner):
        header, payload = await instance.show(6, 1 << 20)
        kept = kept_of(header.requests, payload)
        assert len(kept) == 6
        assert {len(item.payloads[0]) for item in kept} == {4 * item.shapes[0][0] for item in kept}
        header, _ = await instance.show(6, 1)
        assert len(header.requests) == 1, "one always, however large"
        send(instance, owner, np.array([1.0]))
        await eventually(lambda: owner.done)


async def test_a_death_ends_the_wait_for_inputs(tmp_path: Path) -> None:
    async with started(tiny(tmp_path)) as (instance, _):
        instance.kill("a test")
        with pytest.raises(ConnectionError):
            await instance.show(6, 1 << 20)
