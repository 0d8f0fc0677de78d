"""The request log while what writes it is killed under load, again and again: one of two servers that share a folder,
and the process that a server has for it."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from tests.e2e.server import Served, eventually, model, quick
from tests.e2e.test_request_log import ALL, rows_of, written

BOUND = 1 << 18
PAUSE_S = 0.05
"""After each request of a client, so that what both write in a second or two is within the bound."""
ROUNDS = 3
WIDTH = 64
_ANSWERED = re.compile(r'forebay_requests_total\{.*model="ragged"')


class Load:
    """Clients that send rows of which none comes twice, until they are told to stop or their server is dead."""

    def __init__(self) -> None:
        self.sent: set[tuple[float, ...]] = set()
        self._number = 0

    @contextmanager
    def on(self, served: Served, server: float) -> Iterator[None]:
        """Load on a server while the block runs. `server`: stands first in its rows."""
        stop = threading.Event()

        def client(number: float) -> None:
            step = 0
            while not stop.is_set():
                step += 1
                row = [server, number, float(step), *([0.5] * (WIDTH - 3))]
                self.sent.add(tuple(row))
                try:
                    served.infer("ragged", [row])
                except httpx.HTTPError:
                    return
                stop.wait(PAUSE_S)

        with ThreadPoolExecutor(2) as pool:
            self._number += 2
            clients = [pool.submit(client, float(self._number + place)) for place in range(2)]
            try:
                yield
            finally:
                stop.set()
            for one in clients:
                one.result()


def test_killed_under_load_it_is_readable_within_its_bound_and_nobody_elses_is_harmed(tmp_path: Path) -> None:
    settings = [*quick(*model("plain.py", "Ragged")), *ALL, "--set", f"ragged.request_log_bytes={BOUND}"]
    settings += ["--data-dir", str(tmp_path / ".forebay")]
    load, steady = Load(), Served(tmp_path / "steady", *settings)
    try:
        steady.wait_ready()
        with load.on(steady, 0.0):
            for number in range(1, ROUNDS + 1):
                killed = Served(tmp_path / "killed", *settings)
                try:
                    killed.wait_ready()
                    with load.on(killed, float(number)):
                        written(killed, "ragged", 100)
                        killed.process.send_signal(signal.SIGKILL)
                        killed.process.wait(30)
                finally:
                    killed.close()
                _check(tmp_path, load, number)
        before = steady.metric("forebay_request_log_written_rows_total", "ragged")
        steady.infer("ragged", [[9.0, 9.0]])
        eventually(lambda: _at_least(steady, before + 1), "the other goes on")
        steady.stop()
    finally:
        steady.close()
    assert [9.0, 9.0] in [one["x"] for one in rows_of(tmp_path, "ragged")]


def test_the_process_that_writes_is_killed_under_load_and_nobody_notices(tmp_path: Path) -> None:
    settings = [*quick(*model("plain.py", "Ragged")), *ALL, "--data-dir", str(tmp_path / ".forebay")]
    load, served = Load(), Served(tmp_path, *settings)
    try:
        served.wait_ready()
        with load.on(served, 1.0):
            for _ in range(ROUNDS):
                before = served.metric("forebay_request_log_written_rows_total", "ragged")
                eventually(functools.partial(_at_least, served, before + 10), "rows are written")
                _writing(served).kill()
        eventually(lambda: _settled(served), "what became of each row is known")
        answered = [line for line in served.http.get("/metrics").text.splitlines() if _ANSWERED.match(line)]
        assert [float(line.rsplit(" ", 1)[1]) for line in answered] == [len(load.sent)], answered
        assert 'code="ok"' in answered[0]
        sampled = served.metric("forebay_request_log_sampled_rows_total", "ragged")
        assert sampled == len(load.sent)
        written_rows = served.metric("forebay_request_log_written_rows_total", "ragged")
        writes = _writing(served)
        served.stop()
        writes.wait(30)
    finally:
        served.close()
    found = rows_of(tmp_path, "ragged")
    assert written_rows <= len(found) <= sampled
    assert {tuple(one["x"]) for one in found} <= load.sent
    assert "the process that writes the request log has ended" in served.output


def _writing(served: Served) -> psutil.Process:
    """The process that writes its log, once there is one."""
    found: list[psutil.Process] = []

    def there() -> bool:
        for child in psutil.Process(served.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if "forebay.request_log.child" in child.cmdline():
                    found.append(child)
        return bool(found)

    eventually(there, "somebody writes")
    return found[-1]


def _settled(served: Served) -> bool:
    """Whether all that was chosen has been written, or counted as lost."""
    known = [served.metric(f"forebay_request_log_{what}_rows_total", "ragged") for what in ("written", "dropped")]
    return sum(known) == served.metric("forebay_request_log_sampled_rows_total", "ragged")


def _at_least(served: Served, rows: float) -> bool:
    return served.metric("forebay_request_log_written_rows_total", "ragged") >= rows


def _check(folder: Path, load: Load, number: int) -> None:
    """All that is read was sent and is whole; rows of both are there; the folder is no larger than it may be."""
    found = rows_of(folder, "ragged")
    assert {tuple(one["x"]) for one in found} <= load.sent
    assert all(one["output.same"] == one["x"] for one in found)
    assert {0.0, float(number)} <= {one["x"][0] for one in found}
    sizes = []
    for path in (folder / ".forebay" / "requests").rglob("*.rows"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            pass  # it went to make room
    # Files that come while others are looked at may count twice.
    assert sum(sizes) <= BOUND * 1.5
