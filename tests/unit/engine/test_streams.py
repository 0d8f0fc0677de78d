"""A model that streams in a started engine: pieces by row, early ends, callers that leave, what goes wrong midway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.requests import request
from tests.unit.engine.started import Answers, eventually, plan_of, running

from forebay.core.errors import DeadlineExceeded, ExecutionError, ForebayError
from forebay.core.request import Listener, Outputs, Request, output_array
from forebay.engine import flight
from forebay.engine.engine import Engine
from forebay.models.source import ModelSource

MODEL = '''
import os
import time

import forebay

HERE = os.path.dirname(__file__)


def note(text):
    with open(os.path.join(HERE, "notes"), "a") as file:
        file.write(text + "\\n")


class Counts(forebay.Model):
    """Counts each row to `n`; it stops before the number in the file `hold`. After `n` of -1 has had 2, it raises; -2
    ends the process, -3 runs out of memory, -4 hangs; 0 counts on without an end."""

    inputs = {"n": ("INT64", [])}
    outputs = {"text": ("BYTES", []), "many": ("INT64", [-1])}

    def examples(self):
        return [{"n": 1}, {"n": 2}]

    def predict(self, n):
        wanted = n.tolist()
        note("begin " + ",".join(map(str, wanted)))
        time.sleep(0.02)  # so much for a batch of any size: rows then do run together
        live, number = set(range(len(wanted))), 0
        try:
            while live:
                number += 1
                while self.held(number):
                    time.sleep(0.001)
                    if self.idle():
                        gone = yield []
                        live -= gone
                        if not live:
                            return
                if number == 3:
                    self.stumble(wanted)
                step = [
                    forebay.Partial(row, (f"{number};", [number]), last=number == wanted[row]) for row in sorted(live)
                ]
                gone = yield step
                live -= gone | {row for row in live if wanted[row] == number}
        except GeneratorExit:
            note("closed " + ",".join(map(str, wanted)))
            raise

    def held(self, number):
        try:
            with open(os.path.join(HERE, "hold")) as file:
                return number >= int(file.read() or 1)
        except FileNotFoundError:
            return False

    def idle(self):
        return not os.path.exists(os.path.join(HERE, "silent"))

    def stumble(self, wanted):
        if -1 in wanted:
            raise ValueError("minus one")
        if -2 in wanted:
            os._exit(3)
        if -3 in wanted:
            raise MemoryError("minus three")
        if -4 in wanted:
            time.sleep(3600)
'''


class House:
    """The engine, its model's notes, and a hold on how far it counts."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.answers = Answers(engine)
        self.pieces: dict[int, list[tuple[int, Any]]] = {}

    def hold(self, number: int) -> None:
        """From now on it stops before this number."""
        (self.folder / "hold").write_text(str(number))

    def release(self) -> None:
        (self.folder / "hold").unlink()

    @property
    def notes(self) -> list[str]:
        """What the model has noted since the engine was ready."""
        path = self.folder / "notes"
        return path.read_text().splitlines()[self.skipped :] if path.exists() else []

    skipped = 0

    def submit(self, *n: int, listens: bool = True, timeout_s: float = 60.0) -> Request:
        """A request of a row for each `n`."""
        payload = b"".join(value.to_bytes(8, "little", signed=True) for value in n)
        item = request([payload], [()], len(n), timeout_s=timeout_s, on_done=self.answers.on_done)
        heard: list[tuple[int, Any]] = []
        self.pieces[id(item)] = heard
        if listens:
            item.listener = Listener(
                lambda row, outputs: heard.append((row, text(outputs))), lambda row, share: heard.append((row, share))
            )
        self.engine.submit(item)
        return item

    def heard(self, item: Request) -> list[tuple[int, Any]]:
        return self.pieces[id(item)]

    async def together(self, *wanted: tuple[int, bool], timeout_s: float = 60.0) -> list[Request]:
        """Requests of one row that run as one batch; (n, whether it listens)."""
        self.hold(1)
        first = self.submit(1)
        await eventually(lambda: self.notes and self.notes[-1] == "begin 1")
        items = [self.submit(n, listens=listens, timeout_s=timeout_s) for n, listens in wanted]
        await asyncio.sleep(0)
        self.hold(3)
        await self.answers.all(first)
        await eventually(lambda: self.notes[-1] == "begin " + ",".join(str(n) for n, _ in wanted))
        return items

    async def all(self, *items: Request) -> None:
        await self.answers.all(*items)


def text(outputs: Outputs) -> str:
    value: Any = outputs.arrays[0][0]
    assert isinstance(value, bytes)
    return value.decode()


def whole(item: Request) -> tuple[Any, Any]:
    """Both outputs of a request that went well."""
    assert item.error is None, item.error
    return output_array(item, 0, True).tolist(), output_array(item, 1, True).tolist()


def code(item: Request) -> str:
    error: ForebayError | None = item.error
    assert error is not None
    return error.code


@asynccontextmanager
async def house_of(folder: Path, **settings: Any) -> AsyncIterator[House]:
    path = folder / "counts.py"
    path.write_text(MODEL)
    source = ModelSource("counts", "python", str(path), "Counts")
    async with running(plan_of(source, folder / "data", **{"warm_up_s": 0.5, **settings})) as engine:
        house = House(engine, folder)
        house.skipped = len(house.notes)
        try:
            yield house
        finally:
            (folder / "hold").unlink(missing_ok=True)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with house_of(tmp_path) as found:
        yield found


async def test_each_request_gets_the_pieces_of_its_rows_and_then_the_whole(house: House) -> None:
    assert house.engine.streams
    assert house.engine.max_batch_rows > 1, "rows that end at different times do batch"
    lone = house.submit(3)
    await house.all(lone)
    assert house.heard(lone) == [(0, "1;"), (0, "2;"), (0, "3;")]
    assert whole(lone) == ([b"1;2;3;"], [[1, 2, 3]])
    several = house.submit(2, 1, 3)
    await house.all(several)
    assert sorted(house.heard(several)) == [(0, "1;"), (0, "2;"), (1, "1;"), (2, "1;"), (2, "2;"), (2, "3;")]
    assert whole(several) == ([b"1;2;", b"1;", b"1;2;3;"], [[1, 2, 0], [1, 0, 0], [1, 2, 3]])
    await eventually(lambda: house.engine.statistics().inference_count == 4)  # counted when the whole batch is done
    assert house.engine.statistics().success.count == 2
    assert sum(house.engine.metrics.first_piece_s.counts) == 2
    assert house.engine.in_flight == 0


async def test_who_does_not_listen_gets_the_whole_and_no_pieces(house: House) -> None:
    item = house.submit(3, listens=False)
    await house.all(item)
    assert (whole(item), house.heard(item)) == (([b"1;2;3;"], [[1, 2, 3]]), [])


async def test_a_row_that_ends_early_is_answered_while_its_batch_runs(house: House) -> None:
    short, quiet, long = await house.together((2, True), (1, False), (4, True))
    await house.all(short, quiet)
    assert (whole(short), whole(quiet)) == (([b"1;2;"], [[1, 2]]), ([b"1;"], [[1]]))
    assert long.error is None
    assert long not in house.answers.ended
    assert house.engine.in_flight == 1
    house.release()
    await house.all(long)
    assert whole(long) == ([b"1;2;3;4;"], [[1, 2, 3, 4]])
    assert house.engine.in_flight == 0


async def test_the_generator_is_closed_when_nobody_waits_any_more_and_not_before(house: House) -> None:
    one, other = await house.together((0, True), (0, False))
    await eventually(lambda: len(house.heard(one)) == 2)
    house.engine.cancel(one)
    house.hold(50)
    later = house.submit(1)
    await asyncio.sleep(0.1)
    assert "closed 0,0" not in house.notes
    assert len(house.heard(one)) == 2, "a caller who has left hears nothing more"
    house.engine.cancel(other)
    await eventually(lambda: house.notes[-2:] == ["closed 0,0", "begin 1"])
    await house.all(later)
    assert house.engine.metrics.canceled == 2
    assert house.engine.in_flight == 0


async def test_what_was_broken_off_teaches_nothing_about_time(house: House) -> None:
    before = house.engine.latency.observations
    item = house.submit(0)
    await eventually(lambda: house.heard(item))
    house.engine.cancel(item)
    await eventually(lambda: house.notes and house.notes[-1] == "closed 0")
    following = house.submit(1)
    await house.all(following)
    assert house.engine.latency.observations == before + 1


async def test_a_deadline_ends_a_stream_once_and_its_run(house: House) -> None:
    item = house.submit(0, timeout_s=0.3)
    await house.all(item)
    assert isinstance(item.error, DeadlineExceeded)
    assert item.error.stage == "executing"
    await eventually(lambda: house.notes[-1] == "closed 0")
    heard = len(house.heard(item))
    assert heard > 2
    await asyncio.sleep(0.05)
    assert len(house.heard(item)) == heard


@pytest.mark.parametrize(("n", "wrong"), [(-1, "model_error"), (-2, "instance_crashed"), (-3, "out_of_memory")])
async def test_who_has_had_a_piece_gets_the_error_and_the_others_are_run_again(
    house: House, n: int, wrong: str
) -> None:
    guilty, begun, quiet = await house.together((n, True), (4, True), (4, False))
    await eventually(lambda: len(house.heard(begun)) == 2)
    house.release()
    await house.all(guilty, begun, quiet)
    assert (code(guilty), code(begun)) == (wrong, wrong)
    assert [piece for _, piece in house.heard(guilty)] == ["1;", "2;"]
    assert [piece for _, piece in house.heard(begun)] == ["1;", "2;"], "nothing is told twice"
    assert whole(quiet) == ([b"1;2;3;4;"], [[1, 2, 3, 4]])
    assert house.engine.in_flight == 0


@pytest.mark.parametrize(("n", "wrong"), [(-1, "model_error"), (-2, "instance_crashed")])
async def test_the_guilty_who_has_had_no_piece_is_found_as_ever(house: House, n: int, wrong: str) -> None:
    guilty, *others = await house.together((n, False), (4, False), (5, False), (3, False))
    house.release()
    await house.all(guilty, *others)
    assert code(guilty) == wrong
    assert [whole(item)[0] for item in others] == [[b"1;2;3;4;"], [b"1;2;3;4;5;"], [b"1;2;3;"]]


async def test_a_killed_instance_ends_streams_that_have_begun(house: House) -> None:
    begun, quiet = await house.together((6, True), (6, False))
    await eventually(lambda: len(house.heard(begun)) == 2)
    waits = house.submit(1)
    process = house.engine.supervisor.instances[0]._process
    assert process is not None
    process.kill()
    house.release()
    await house.all(begun, quiet, waits)
    assert code(begun) == "instance_crashed"
    assert isinstance(begun.error, ExecutionError)
    assert (whole(quiet)[0], whole(waits)[0]) == ([b"1;2;3;4;5;6;"], [b"1;"])


async def test_a_stream_that_gives_signs_of_life_does_not_hang_and_one_that_does_not_is_killed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "HANG_MIN_S", 0.3)
    monkeypatch.setattr(flight, "HANG_FACTOR", 0.0)
    alive, patient = house.submit(0, timeout_s=0.1), house.submit(0, timeout_s=20)
    pid = house.engine.supervisor.instances[0].pid
    await house.all(alive)
    await asyncio.sleep(1)
    assert house.engine.supervisor.instances[0].pid == pid
    house.engine.cancel(patient)
    hangs, begun = house.submit(-4, timeout_s=1), house.submit(-4, timeout_s=40)
    await house.all(hangs, begun)
    assert code(hangs) == "deadline_exceeded"
    assert code(begun) == "instance_crashed", "it has had pieces, and is not run again"
    assert len(house.heard(begun)) == 2
    last = house.submit(1)
    await house.all(last)
    assert house.engine.supervisor.instances[0].pid != pid


async def test_a_listener_that_raises_costs_nobody_else_anything(house: House) -> None:
    bad, good = await house.together((3, True), (3, True))

    def fails(row: int, outputs: Outputs) -> None:
        raise RuntimeError("a bad listener")

    assert bad.listener is not None
    bad.listener.on_piece = fails
    house.release()
    await house.all(bad, good)
    assert whole(bad) == whole(good) == ([b"1;2;3;"], [[1, 2, 3]])


async def test_a_split_request_hears_its_rows_by_their_own_number(tmp_path: Path) -> None:
    async with house_of(tmp_path, max_batch_rows=2) as house:
        item = house.submit(1, 2, 1, 2, 1)
        await house.all(item)
        assert sorted(house.heard(item)) == [
            (0, "1;"), (1, "1;"), (1, "2;"), (2, "1;"), (3, "1;"), (3, "2;"), (4, "1;"),
        ]  # fmt: skip
        assert whole(item)[0] == [b"1;", b"1;2;", b"1;", b"1;2;", b"1;"]
        canceled = house.submit(0, 0, 0)
        await eventually(lambda: house.heard(canceled))
        house.engine.cancel(canceled)
        last = house.submit(1)
        await house.all(last)
        assert "closed 0,0" in house.notes


async def test_no_batch_is_bound_to_a_busy_instance_of_a_model_that_streams(house: House) -> None:
    house.hold(1)
    items = [house.submit(1) for _ in range(3)]
    await eventually(lambda: house.notes)
    await asyncio.sleep(0.1)
    items.append(house.submit(1))
    await asyncio.sleep(0.05)
    assert [len(instance.flights) for instance in house.engine.supervisor.instances.values()] == [1]
    house.release()
    await house.all(*items)
