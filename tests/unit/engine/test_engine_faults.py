"""A started engine whose model fails, whose instance dies, or whose answers are none: everybody still ends once."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import MODEL, Answers, Gate, eventually, plan_of, running, tiny, y

from forebay.core.errors import AdmissionError, ForebayError, SetupError
from forebay.core.request import Background, Request
from forebay.engine import frames
from forebay.engine.engine import Engine
from forebay.worker.outcomes import outcome_of

INDEPENDENT = MODEL.replace("np.full(len(x), len(x))", "np.zeros(len(x), int)")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@asynccontextmanager
async def engine_of(folder: Path, text: str = INDEPENDENT, **settings: Any) -> AsyncIterator[tuple[Engine, Answers]]:
    async with running(plan_of(tiny(folder, text=text), folder / "data", **settings)) as engine:
        yield engine, Answers(engine)


async def together(answers: Answers, gate: Gate, *values: float) -> tuple[Request, list[Request]]:
    """Requests that are sure to wait for each other; the first one is alone inside meanwhile."""
    before = len(gate.calls)
    gate.close()
    first = answers.submit(100.0)
    await eventually(lambda: len(gate.calls) > before)
    items = [answers.submit(value) for value in values]
    return first, items


def codes(items: list[Request]) -> list[str]:
    return [item.error.code if item.error else "ok" for item in items]


def another_serves(engine: Engine, pid: int) -> bool:
    return engine.supervisor.ready == 1 and instance_pid(engine) != pid


def instance_pid(engine: Engine) -> int:
    return engine.supervisor.instances[0].pid


async def test_only_the_guilty_of_a_batch_fail(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        values = [-1.0 if n in (3, 11) else float(n) for n in range(16)]
        first, items = await together(answers, gate, *values)
        gate.open()
        await answers.all(first, *items)
        assert codes(items) == ["model_error" if value == -1 else "ok" for value in values]
        assert all(y(item) == [[2 * value]] for item, value in zip(items, values, strict=True) if not item.error)
        assert "minus one" in str(items[3].error)
        assert (engine.in_flight, engine.metrics.answered) == (0, {"ok": 15, "model_error": 2})
        assert engine.statistics().fail.count == 2


async def test_a_broken_model_costs_a_few_calls(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (_, answers):
        first, items = await together(answers, gate, *[-1.0] * 64)
        before = len(gate.calls)
        gate.open()
        await answers.all(first, *items)
        assert set(codes(items)) == {"model_error"}
        assert len(gate.calls) - before <= 7


async def test_a_request_that_ends_the_process_is_blamed_when_it_does_so_alone_twice(tmp_path: Path) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        bad, before = answers.submit(-2.0), instance_pid(engine)
        await answers.all(bad)
        assert codes([bad]) == ["instance_crashed"]
        assert "ended with exit code 3" in str(bad.error)
        good = answers.submit(1.0)
        await answers.all(good)
        assert y(good) == [[2.0]]
        assert instance_pid(engine) != before
        assert engine.metrics.deaths == 2


async def test_mates_of_a_request_that_ends_the_process_are_answered(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (_, answers):
        values = [1.0, 2.0, -2.0, 4.0]
        first, items = await together(answers, gate, *values)
        gate.open()
        await answers.all(first, *items)
        assert codes(items) == ["ok", "ok", "instance_crashed", "ok"]


async def test_a_killed_instance_costs_nobody_an_answer(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first, items = await together(answers, gate, 1.0, 2.0, 3.0)
        os.kill(instance_pid(engine), signal.SIGKILL)
        await eventually(lambda: engine.metrics.deaths == 1)
        gate.open()
        await answers.all(first, *items)
        assert codes([first, *items]) == ["ok"] * 4


async def test_what_is_replaced_by_an_instance_of_other_files_is_not_cached_any_more(tmp_path: Path) -> None:
    """The model was not loaded anew, so its answers would go on to stand under the digest of the former files."""
    weights = tmp_path / "weights.txt"
    weights.write_text("1")
    text = INDEPENDENT.replace("    inputs =", '    files = ["weights.txt"]\n    inputs =')
    async with engine_of(tmp_path, text, cache="exact") as (engine, answers):
        for content, caches in (("1", True), ("10", False)):
            weights.write_text(content)
            before = instance_pid(engine)
            os.kill(before, signal.SIGKILL)
            await eventually(functools.partial(another_serves, engine, before))
            assert (engine.digest != "", engine.caching is not None) == (caches, caches)
            await answers.all(item := answers.submit(1.0))
            assert codes([item]) == ["ok"]


async def test_an_answer_that_cannot_be_understood_costs_nobody_an_answer(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first, items = await together(answers, gate, 1.0, 2.0)
        instance = engine.supervisor.instances[0]
        batch_id = next(iter(instance.flights))
        outputs = [frames.OutputPart([1, 7], 4, -1), frames.OutputPart([1], 4, -1)]
        instance.data_received(frames.pack(frames.DONE, frames.DoneHeader(batch_id, 0.1, outputs), [bytes(8)]))
        await eventually(lambda: engine.metrics.deaths == 1)
        gate.open()
        await answers.all(first, *items)
        assert codes([first, *items]) == ["ok"] * 3


async def test_a_request_that_does_not_fit_into_memory_is_told_and_the_rest_goes_on(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        first, items = await together(answers, gate, 1.0, -3.0, 3.0)
        before = instance_pid(engine)
        gate.open()
        await answers.all(first, *items)
        assert codes(items) == ["ok", "out_of_memory", "ok"]
        await eventually(lambda: engine.supervisor.ready == 1 and instance_pid(engine) != before)
        good = [answers.submit(float(n)) for n in range(5)]
        await answers.all(*good)
        assert codes(good) == ["ok"] * 5


async def test_a_model_that_always_dies_fails_the_engine_and_not_forever(tmp_path: Path, gate: Gate) -> None:
    die = "        if os.path.exists(os.path.join(HERE, 'die')):\n            os._exit(9)\n"
    dying = INDEPENDENT.replace("        with open", f"{die}        with open", 1)
    async with engine_of(tmp_path, text=dying) as (engine, answers):
        (tmp_path / "die").touch()
        items = [answers.submit(float(n)) for n in range(3)]
        for _ in range(12):
            if engine.state == "failed":
                break
            items.append(answers.submit(1.0))
            await answers.all(items[-1])
        await answers.all(*items)
        assert set(codes(items)) <= {"instance_crashed", "model_not_ready"}
        assert engine.in_flight == 0
        (tmp_path / "die").unlink()
        await eventually(lambda: engine.state == "ready" and engine.supervisor.ready)
        good = answers.submit(1.0)
        await answers.all(good)
        assert codes([good]) == ["ok"]


async def test_closing_while_an_instance_waits_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.supervisor.FIRST_DELAY_S", 30.0)
    monkeypatch.setattr("forebay.engine.supervisor.FREE_DEATHS", 0)
    async with engine_of(tmp_path) as (engine, answers):
        os.kill(instance_pid(engine), signal.SIGKILL)
        await eventually(lambda: engine.state == "failed")
        with pytest.raises(AdmissionError) as caught:
            answers.submit(1.0)
        assert caught.value.code == "model_not_ready"
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        await engine.close(1.0)
        for number in taken:
            os.fstat(number)  # still ours
            os.close(number)


async def test_an_engine_that_drains_and_cannot_start_again_gives_back_what_it_has(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is gone, since another version has taken over. Jobs have no deadline that would end them."""
    monkeypatch.setattr("forebay.engine.supervisor.FREE_DEATHS", 1)
    async with engine_of(tmp_path) as (engine, answers):
        first, items = await together(answers, gate, 1.0)
        job = request([[2.0]], [(1,)], timeout_s=0.001, on_done=answers.on_done)
        job.background = Background(math.inf)
        engine.submit(job)
        engine.drain("another version has taken over")
        (tmp_path / "tiny.py").unlink()
        os.kill(instance_pid(engine), signal.SIGKILL)
        async with asyncio.timeout(30):
            await engine.close(None)
        assert codes([first, *items, job]) == ["draining"] * 3
        assert outcome_of(cast(ForebayError, job.error), 1, served=True).kind == "release"
        assert engine.state == "draining"


WIDE = """
from forebay.engine import frames

frames.MAX_FRAME_BYTES = 1 << 14


class Tiny(forebay.Model):
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}
    warm_up_s = 0.0
    pad = True

    def predict(self, x):
        with open(os.path.join(HERE, "calls"), "a") as file:
            file.write(f"{len(x)}\\n")
        while os.path.exists(os.path.join(HERE, "gate")):
            time.sleep(0.001)
        if (x == -5).any():
            return np.zeros((len(x), 5000), "f4")
        return np.repeat(x[:, :1], 1000, axis=1)
"""


async def test_an_answer_that_no_frame_can_carry_is_cut_and_ends_no_instance(tmp_path: Path, gate: Gate) -> None:
    text = INDEPENDENT.partition("class Tiny")[0] + WIDE
    async with engine_of(tmp_path, text=text) as (engine, answers):
        pid = instance_pid(engine)
        many = answers.submit(*map(float, range(8)), rows=8)
        await answers.all(many)
        assert [row[0] for row in y(many)] == list(range(8))
        assert (engine.metrics.deaths, instance_pid(engine)) == (0, pid)
        first, items = await together(answers, gate, 1.0, -5.0)
        gate.open()
        await answers.all(first, *items)
        assert codes([first, *items]) == ["ok", "ok", "out_of_memory"]
        assert "too large" in str(items[1].error)


@pytest.mark.parametrize("attribute", ["threads = 0", "max_batch_rows = 'many'"])
async def test_a_bad_setting_in_the_class_ends_the_start(tmp_path: Path, attribute: str) -> None:
    from forebay.core.settings_sources import load_settings

    plan = plan_of(tiny(tmp_path, attribute), tmp_path / "data")
    loaded = load_settings(config_file=None, environ={}, flags={}, sets=[], folder=tmp_path)
    plan.resolve = lambda attributes: loaded.model("tiny", attributes, None)
    with pytest.raises(SetupError, match=f"class attribute {attribute.split()[0]} of tiny"):
        async with running(plan):
            pass


@pytest.mark.parametrize("settings", [{}, {"instances": 2}])
async def test_a_model_that_does_not_load_ends_the_start_and_leaves_no_process(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    once = """def load(self, device):
        if os.path.exists(HERE + "/loaded"):
            raise OSError("only once")
        open(HERE + "/loaded", "w").close()

    def predict"""
    source = tiny(tmp_path, text=INDEPENDENT.replace("def predict", once))
    if not settings:
        (tmp_path / "loaded").touch()
    plan = plan_of(source, tmp_path / "data", **settings)
    with pytest.raises(SetupError, match=r"Tiny\.load\('cpu'\) failed: OSError: only once"):
        async with running(plan):
            pass
    assert [child for child in psutil.Process().children() if "forebay.engine.child" in child.cmdline()] == []


async def test_a_process_that_cannot_be_started_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.engine.instance.sys.executable", str(tmp_path / "no python"))
    with pytest.raises(SetupError, match=r"model tiny: no process could be started: .*no python"):
        async with engine_of(tmp_path):
            pass


async def test_a_retry_that_comes_too_late_is_a_deadline(tmp_path: Path, gate: Gate) -> None:
    async with engine_of(tmp_path) as (engine, answers):
        gate.close()
        item = request([[1.0]], [(1,)], on_done=answers.on_done, timeout_s=1.0)
        engine.submit(item)
        await eventually(lambda: len(engine.supervisor.instances[0].flights) == 1)
        os.kill(instance_pid(engine), signal.SIGKILL)  # the replacement then hangs at the gate, too
        await answers.all(item)
        assert codes([item]) == ["deadline_exceeded"]
        assert engine.in_flight == 0
        gate.open()


async def test_a_model_does_not_see_secrets_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "FOREBAY_WEBHOOK_SECRETS",
        "FOREBAY_API_KEYS",
        "FOREBAY_JOBS__STORE",
        "FOREBAY_JOBS__BROKER",
        "FOREBAY_CACHE__STORE",
        "FOREBAY_TEST_SEEN",
    )
    for name in names:
        monkeypatch.setenv(name, "x")
    text = INDEPENDENT.replace("np.zeros(len(x), int)", "np.full(len(x), sum(n in os.environ for n in NAMES))")
    text = text.replace("HERE =", f"NAMES = {names}\nHERE =")
    async with engine_of(tmp_path, text) as (_, answers):
        item = answers.submit(1.0)
        await answers.all(item)
        assert item.outputs is not None
        assert item.outputs.arrays[1].tolist() == [1]
