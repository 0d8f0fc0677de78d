"""The process that writes: nobody waits for it, and whatever ends it, each row is written or counted as lost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.request_log.rig import TEXTS, answered, texts_of

from forebay.core.settings import ModelSettings
from forebay.request_log import logs
from forebay.request_log.folder import model_folder
from forebay.request_log.logs import RequestLogs
from forebay.request_log.reading import Reading
from forebay.request_log.sampler import Sampler
from forebay.request_log.spool import Outlet
from forebay.telemetry.request_log_metrics import RequestLogCounts

WAIT_S = 30.0


class Process:
    """A serving process that logs texts, and the one that it has for that."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.logs = RequestLogs(gather_s=0.01)
        self.spool = self.logs.spool
        chosen = ModelSettings(**{"request_log": 1.0, **settings})
        opened = self.logs.open("m", "1", "d1", TEXTS, (), chosen, data_dir)
        assert opened is not None
        self.sampler: Sampler = opened[0]
        self.outlet: Outlet = opened[1]

    @property
    def counts(self) -> RequestLogCounts:
        return self.outlet.counts

    def ask(self, *texts: str) -> None:
        for text in texts:
            self.sampler.take(*answered(TEXTS, text), 0)

    def told(self) -> int:
        """Rows of which it is known what became of them."""
        return self.counts.written + sum(self.counts.dropped.values())

    async def all_told(self) -> None:
        await until(lambda: self.told() == self.counts.sampled)

    def texts(self) -> list[str]:
        return texts_of(list(Reading(model_folder(self.data_dir, "m"))))


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not done():
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@asynccontextmanager
async def process(data_dir: Path, **settings: Any) -> AsyncIterator[Process]:
    made = Process(data_dir, **settings)
    try:
        yield made
    finally:
        await made.logs.close()


def redaction(folder: Path, body: str) -> str:
    """A file with such a function; what `--set NAME.request_log_redact=` takes."""
    file = folder / "redact.py"
    file.write_text(f"import os\nimport time\n\n\ndef redact(row):\n    {body}\n    return row\n")
    return f"{file}:redact"


async def test_rows_are_written_by_another_process_and_counted_here(tmp_path: Path) -> None:
    async with process(tmp_path) as served:
        served.ask("a", "b", "a")
        await served.all_told()
        assert (served.counts.written, served.counts.dropped) == (2, {"duplicate": 1})
        assert served.spool.pid not in (0, os.getpid())
        assert served.spool.queued_bytes == 0
        assert served.logs.metrics.held_bytes["m"] > 0
        pid = served.spool.pid
    assert gone(pid)
    assert served.texts() == ["a", "b"]


async def test_what_was_taken_last_is_written_before_the_end(tmp_path: Path) -> None:
    async with process(tmp_path) as served:
        served.ask(*map(str, range(100)))
    assert len(served.texts()) == 100
    assert served.counts.written == 100
    served.ask("too late")
    assert served.counts.dropped == {"queue_full": 1}


async def test_where_nothing_is_logged_there_is_no_process(tmp_path: Path) -> None:
    async with process(tmp_path) as served:
        served.logs.leave(served.outlet)
        await asyncio.sleep(0.05)
        assert served.spool.pid == 0


async def test_what_is_queued_is_bounded(tmp_path: Path) -> None:
    async with process(tmp_path, request_log_redact=redaction(tmp_path, "time.sleep(0.2)")) as served:
        served.spool._most_queued_bytes = 10_000
        served.ask(*(f"{number} " + "x" * 500 for number in range(100)))
        kept = 100 - served.counts.dropped["queue_full"]
        assert 5 < kept < 20
        await served.all_told()
        assert served.counts.written == kept
        served.ask("there is room again")
        await served.all_told()
        assert served.counts.written == kept + 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_one_that_is_killed_is_replaced_and_what_it_had_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: signal.Signals
) -> None:
    async with process(tmp_path) as served:
        served.spool._again_s = served.spool._first_again_s = 0.05
        asked = 0
        for _ in range(3):
            served.ask(*(f"text {asked + place}" for place in range(50)))
            asked += 50
            await until(lambda: served.spool._transport is not None)
            os.kill(served.spool.pid, number)
            served.ask(f"text {asked}")
            asked += 1
            await served.all_told()
        served.ask("the last")
        await served.all_told()
        assert served.counts.sampled == asked + 1
        assert set(served.counts.dropped) <= {"stopped", "duplicate"}
        assert served.spool.queued_bytes == 0
    texts = served.texts()
    assert len(texts) == len(set(texts)) >= served.counts.written
    assert "the last" in texts
    assert "the process that writes the request log has ended" in caplog.text
    assert "text 1" not in caplog.text


async def test_logs_that_come_and_go_survive_its_death(tmp_path: Path) -> None:
    async with process(tmp_path) as served:
        served.spool._again_s = served.spool._first_again_s = 0.05
        served.ask("a")
        await served.all_told()
        served.spool._gather_s = 0.5
        served.ask("b")
        served.logs.leave(served.outlet)
        served.ask("c")
        os.kill(served.spool.pid, signal.SIGKILL)
        await served.all_told()
        served.ask("d")
        await served.all_told()
        assert (served.counts.written, served.counts.dropped) == (4, {})
        assert len(served.spool._outlets) == 1
    assert served.texts() == ["a", "b", "c", "d"]


async def test_a_function_that_ends_the_process_costs_what_came_with_its_row(tmp_path: Path) -> None:
    ends = redaction(tmp_path, "os._exit(3) if row['inputs']['text'] == 'bad' else None")
    async with process(tmp_path, request_log_redact=ends) as served:
        served.spool._again_s = served.spool._first_again_s = 0.05
        for word in ("a", "bad", "b"):
            served.ask(word)
            await served.all_told()
        assert (served.counts.written, served.counts.dropped) == (2, {"stopped": 1})
    assert served.texts() == ["a", "b"]


async def test_it_is_not_started_again_and_again_at_once(tmp_path: Path) -> None:
    async with process(tmp_path, request_log_redact=redaction(tmp_path, "os._exit(3)")) as served:
        served.spool._again_s = served.spool._first_again_s = 0.05
        for word in ("a", "b", "c"):
            served.ask(word)
            await served.all_told()
        assert served.spool._again_s == pytest.approx(0.05 * 2**3)


async def test_a_function_that_hangs_keeps_nothing_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "CLOSE_S", 0.2)
    caplog.set_level(logging.WARNING, logger="forebay.request_log")  # whatever level others have left above it
    async with process(tmp_path, request_log_redact=redaction(tmp_path, "time.sleep(3600)")) as served:
        served.ask("a")
        await until(lambda: served.spool._transport is not None)
        pid = served.spool.pid
    assert "the request log was not done in 0.2 s: 1 rows are not in it" in caplog.text
    assert gone(pid)


async def test_nothing_is_left_of_one_that_was_to_be_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "CLOSE_S", 0.2)
    async with process(tmp_path, request_log_redact=redaction(tmp_path, "os._exit(3)")) as served:
        served.spool._again_s = served.spool._first_again_s = 3600.0
        served.ask("a")
        await served.all_told()
        served.ask("b")
        await until(lambda: served.spool._starting is not None)
    await asyncio.sleep(0)
    assert "the request log was not done in 0.2 s: 1 rows are not in it" in caplog.text
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_function_that_computes_for_long_holds_up_nobody(tmp_path: Path) -> None:
    busy = redaction(tmp_path, "until = time.monotonic() + 1.0\n    while time.monotonic() < until: pass")
    async with process(tmp_path, request_log_redact=busy) as served:
        served.ask("a")
        await until(lambda: served.spool._transport is not None)
        turns = 0
        while not served.counts.written:
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 50


async def test_what_it_has_to_tell_is_in_the_servers_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with process(tmp_path, request_log_redact=redaction(tmp_path, "raise ValueError('secret')")) as served:
        served.ask("a")
        await served.all_told()
    assert (
        "request_log_redact failed, so that the row is not logged: it raised ValueError at redact.py:6" in caplog.text
    )
    assert "secret" not in caplog.text


async def connected(served: Process) -> asyncio.Transport:
    """The way to a process that is there; what is asked from now on waits here."""
    served.ask("a")
    await until(lambda: served.spool._transport is not None)
    served.spool._gather_s = 3600.0
    transport = served.spool._transport
    assert transport is not None
    return transport


async def test_it_writes_what_it_has_when_its_server_is_gone(tmp_path: Path) -> None:
    served = Process(tmp_path)
    transport = await connected(served)
    await served.all_told()
    served.ask("b")
    served.spool._closing = True
    served.spool._process, child = None, served.spool._process  # a server that is gone ends nobody
    assert child is not None
    transport.write(b"".join(served.spool._items) + b"half")
    transport.abort()
    assert await asyncio.to_thread(child.wait, WAIT_S) == 0
    assert served.texts() == ["a", "b"]


@pytest.mark.full
async def test_one_that_hangs_ends_some_time_after_its_server(tmp_path: Path) -> None:
    served = Process(tmp_path, request_log_redact=redaction(tmp_path, "time.sleep(3600)"))
    transport = await connected(served)
    served.spool._closing = True
    served.spool._process, child = None, served.spool._process  # a server that is gone ends nobody
    assert child is not None
    began = time.monotonic()
    transport.abort()
    assert await asyncio.to_thread(child.wait, WAIT_S) == 1
    assert 5 < time.monotonic() - began < 20
