"""The process that measures, for real: on a small model, to its end, and cut short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from tests.unit.engine.started import MODEL, Gate, eventually, plan_of, running, tiny

from forebay.core.settings import ModelSettings
from forebay.engine import setup
from forebay.engine.kept_inputs import FEWEST, KeptRequest
from forebay.engine.sizing import Finding, Size
from forebay.engine.trial import Bench
from forebay.engine.trial_frames import Order
from forebay.engine.trials import order_for, run_trial
from forebay.models.source import ModelSource

GROUPS = [[Size(2, 1), Size(1, 1)]]


def order_of(source: ModelSource, data_dir: Path, **changes: Any) -> Order:
    order = Order(
        source=source,
        settings=ModelSettings(instances="auto", threads="auto", warm_up_s=0.0),
        data_dir=str(data_dir),
        shared_memory_bytes=1 << 16,
        cores=2,
        usual=Size(2, 1),
        groups=GROUPS,
        budget_s=20.0,
        kept=[],
    )
    return msgspec.structs.replace(order, **changes)


Measuring = Callable[[], list[psutil.Process]]


@pytest.fixture
def measuring() -> Measuring:
    """The processes that this one has started since the test began, and theirs."""
    before = set(psutil.Process().children(recursive=True))

    def since() -> list[psutil.Process]:
        now = set(psutil.Process().children(recursive=True)) - before
        return [child for child in now if child.status() != psutil.STATUS_ZOMBIE]

    return since


def quick(source: ModelSource) -> ModelSource:
    """The tiny model as one whose rows may share a batch."""
    path = Path(source.path)
    text = path.read_text().replace('"y": ("FP32", [-1]), "rows": ("INT32", [])', '"y": ("FP32", [-1])')
    path.write_text(text.replace("return x * 2, np.full(len(x), len(x))", "return x * 2"))
    return source


async def test_it_measures_every_candidate_and_leaves_nothing_behind(tmp_path: Path, measuring: Measuring) -> None:
    rounds: list[Mapping[Size, float]] = []
    found = await run_trial(order_of(quick(tiny(tmp_path)), tmp_path), rounds.append)
    assert found.chosen in GROUPS[0]
    assert (set(found.rates), found.reason) == (set(GROUPS[0]), "")
    assert all(rate > 0 for rate in found.rates.values())
    assert len(rounds) >= 3
    assert all(set(rates) == set(GROUPS[0]) for rates in rounds[:3])
    await eventually(lambda: not measuring())
    assert list((tmp_path / "latency").iterdir()), "what candidates cost is kept"


@pytest.mark.parametrize(
    "answer", ["return x * 2, np.full(len(x), len(x))", "yield x * 2, np.full(len(x), 1)"], ids=["alone", "streams"]
)
async def test_it_measures_models_that_do_not_batch_and_models_that_stream(tmp_path: Path, answer: str) -> None:
    source = tiny(tmp_path, text=MODEL.replace("return x * 2, np.full(len(x), len(x))", answer))
    found = await run_trial(order_of(source, tmp_path, budget_s=4.0), lambda rates: None)
    assert found.reason == ""
    assert set(found.rates) == set(GROUPS[0])


async def test_it_measures_with_the_inputs_of_live_requests(tmp_path: Path) -> None:
    source = quick(tiny(tmp_path))
    path = Path(source.path)
    marker = '        with open(os.path.join(HERE, "calls")'
    path.write_text(
        path.read_text().replace(
            marker,
            f'        if 77 in x:\n            open(os.path.join(HERE, "seen"), "w").close()\n{marker}',
        )
    )
    # Few as they are: what is made up comes beside them.
    kept = [KeptRequest([(2,)], [np.array([77.0, 1.0], "<f4").tobytes()])]
    await run_trial(order_of(source, tmp_path, kept=kept), lambda rates: None)
    assert (tmp_path / "seen").exists()


@pytest.mark.parametrize("count", [1, FEWEST - 1, FEWEST])
async def test_few_live_requests_are_not_all_it_measures_with(tmp_path: Path, count: int) -> None:
    """A probe after the start is no sample of what is to come: examples or made-up inputs stand beside it."""
    kept = [KeptRequest([(3,)], [np.full(3, number, "<f4").tobytes()]) for number in range(count)]
    bench = Bench(order_of(quick(tiny(tmp_path)), tmp_path, kept=kept), time.monotonic() + 20.0)
    try:
        await bench.load(Size(1, 1))
        lengths = [inputs.shapes[0][0] for inputs in bench._inputs]
        assert lengths.count(3) == count
        assert (set(lengths) > {3}) == (count < FEWEST), lengths
    finally:
        await bench.close()


async def test_inputs_that_the_model_refuses_are_the_reason(tmp_path: Path) -> None:
    kept = [KeptRequest([(1,)], [np.array([-1.0], "<f4").tobytes()])]
    found = await run_trial(order_of(quick(tiny(tmp_path)), tmp_path, kept=kept), lambda rates: None)
    assert (found.chosen, found.rates) == (Size(2, 1), {})
    assert "minus one" in found.reason


async def test_a_model_that_does_not_load_is_the_reason(tmp_path: Path, measuring: Measuring) -> None:
    source = tiny(tmp_path, text="raise ValueError('no weights')")
    found = await run_trial(order_of(source, tmp_path), lambda rates: None)
    assert (found.chosen, found.rates) == (Size(2, 1), {})
    assert "no weights" in found.reason
    await eventually(lambda: not measuring())


async def test_a_model_that_never_answers_costs_its_time_and_no_more(tmp_path: Path, measuring: Measuring) -> None:
    source = quick(tiny(tmp_path))
    Gate(tmp_path).close()
    found = await run_trial(order_of(source, tmp_path, budget_s=1.5), lambda rates: None)
    assert (found.chosen, found.rates) == (Size(2, 1), {})
    assert "in time" in found.reason
    await eventually(lambda: not measuring())


async def test_cancelling_ends_every_process_of_it(tmp_path: Path, measuring: Measuring) -> None:
    rounds: list[Mapping[Size, float]] = []
    trial = asyncio.ensure_future(run_trial(order_of(quick(tiny(tmp_path)), tmp_path), rounds.append))
    await eventually(lambda: rounds)
    assert measuring()
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    await eventually(lambda: not measuring())


async def test_the_death_of_the_process_is_a_finding(tmp_path: Path, measuring: Measuring) -> None:
    rounds: list[Mapping[Size, float]] = []
    trial = asyncio.ensure_future(run_trial(order_of(quick(tiny(tmp_path)), tmp_path), rounds.append))
    await eventually(lambda: rounds)
    for child in psutil.Process().children():
        if "forebay.engine.trial" in child.cmdline():
            child.kill()
    found = await trial
    assert (found.chosen, found.rates, "has died" in found.reason) == (Size(2, 1), {}, True)
    await eventually(lambda: not measuring())


async def test_an_order_is_made_for_what_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tiny(tmp_path), tmp_path, instances="auto", threads=2, labels=None)
    plan.cores = 4
    async with running(plan) as engine:
        order = order_for(engine)
        assert isinstance(order, Order)
        assert (order.usual, order.groups) == (Size(2, 2), [[Size(2, 2), Size(1, 2)]])
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=Order).groups == order.groups
        assert "memory for 0 more instances" in str(order_for(engine, 1 << 20))
        assert "memory for 0 more instances" in str(order_for(engine, -5))
        assert isinstance(order_for(engine, 1 << 40), Order)
        monkeypatch.setattr(setup, "available_bytes", lambda: 1 << 20)
        assert "memory for 0 more instances" in str(order_for(engine, 1 << 40))
        assert "memory for 0 more instances" in str(order_for(engine))
        plan.cores = 2
        plan.settings = msgspec.structs.replace(plan.settings, instances=2)
        assert "only 2x2 is possible" in str(order_for(engine))


async def test_what_was_found_is_what_an_engine_starts_with(tmp_path: Path) -> None:
    plan = plan_of(tiny(tmp_path), tmp_path, instances="auto", threads="auto")
    plan.cores = 4
    async with running(plan) as engine:
        assert (engine.instances, engine.plan.threads) == (4, 1)
        assert engine.choices is not None
        engine.choices.save(Finding(Size(2, 2), {Size(2, 2): 5.0}))
    again = plan_of(plan.source, tmp_path, instances="auto", threads="auto")
    again.cores = 4
    async with running(again) as engine:
        assert (engine.instances, engine.plan.threads) == (2, 2)
        assert engine.tuning is not None
        assert (engine.tuning.state, engine.tuning.chosen) == ("settled", "2x2")


async def test_what_is_measured_leaves_the_network_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that takes both cores is told less than was counted; one that leaves a core is told all of it."""
    kept = KeptRequest(shapes=[[1]], payloads=[b"\x00" * 4])
    bench = Bench(order_of(tiny(tmp_path), tmp_path, kept=[kept] * FEWEST), 0.0)
    bench._engines[1] = SimpleNamespace(use=lambda instances: None, ends={}, at_rest=True)  # type: ignore[assignment]

    async def counted(engine: object, load: object, size: Size) -> float:
        return 40_000.0

    monkeypatch.setattr(bench, "_counted", counted)
    monkeypatch.setattr("forebay.engine.trial.Load", lambda *given: SimpleNamespace(stop=lambda: None))
    assert await bench.rate(Size(1, 1)) == 40_000.0
    assert await bench.rate(Size(2, 1)) == pytest.approx(36_000.0)


async def test_what_it_measures_with_is_told_apart_by_size(tmp_path: Path) -> None:
    """Each batch that a candidate ends is noted by the sizes of the inputs that are measured with."""
    kept = [KeptRequest([(length,)], [np.ones(length, "<f4").tobytes()]) for length in (1, 100) * FEWEST]
    bench = Bench(order_of(quick(tiny(tmp_path)), tmp_path, kept=kept), time.monotonic() + 20.0)
    try:
        await bench.load(Size(1, 1))
        assert await bench.rate(Size(1, 1)) > 0
        ended = [counts for _, counts in bench._engines[1].ends[0]]
        assert {len(counts) for counts in ended} == {2}
        assert all(map(sum, zip(*ended, strict=True))), "both were run"
    finally:
        await bench.close()
