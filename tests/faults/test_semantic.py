"""An embedder that dies or freezes under load: texts are answered all the same, by the model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest
from tests.e2e import semantic
from tests.e2e.semantic import ask, found, works
from tests.e2e.server import Served, eventually, gone, serving

CLIENTS = 8
LIMIT_MS = 200


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Served]:
    more = ["--set", "answers.semantic_uncalibrated=true", "--set", f"answers.semantic_timeout_ms={LIMIT_MS}"]
    with serving(tmp_path, *semantic.with_embedder(semantic.letters(tmp_path), "letters", *more)) as served:
        yield served


@contextmanager
def load(served: Served) -> Iterator[Callable[[], int]]:
    """Clients that ask new texts without end; gives how many are answered. At the end all must have been right."""
    stop, answers = threading.Event(), list[tuple[str, httpx.Response]]()

    def client(number: int) -> None:
        for place in count():
            if stop.is_set():
                return
            text = f"Where is order {number} {place}?"
            answers.append((text, ask(served, text)))

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            yield lambda: len(answers)
        finally:
            stop.set()
        for one in clients:
            one.result()
    assert [found(answer) for _, answer in answers] == [("miss", text.upper()) for text, _ in answers]


def embedder_of(served: Served) -> psutil.Process:
    """The instance of the embedder: the one that does not hold the model's list of runs open."""
    (found,) = [one for one in served.instances() if not any(file.path.endswith(".runs") for file in one.open_files())]
    return found


def some_more(answered: Callable[[], int], what: str) -> None:
    before = answered()
    eventually(lambda: answered() >= before + 5 * CLIENTS, what)


@contextmanager
def frozen(victim: psutil.Process) -> Iterator[None]:
    """It stands still while the block runs. Stopped again and again: the server, too, stops instances and lets them go
    on, to share the cores."""
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.001):
            victim.send_signal(signal.SIGSTOP)

    victim.send_signal(signal.SIGSTOP)
    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        over.set()
        holding.join()
        victim.send_signal(signal.SIGCONT)


def test_it_is_killed(house: Served) -> None:
    assert works(house, 1)
    with load(house) as answered:
        for _ in range(3):
            victim = embedder_of(house)
            some_more(answered, "all is well")
            victim.kill()
            gone([victim])
            some_more(answered, "while it is gone")
            eventually(lambda: house.metric("forebay_instances_ready", "letters") == 1, "it is back")
    numbers = count(2)
    eventually(lambda: works(house, next(numbers)), "near texts are found again")


def test_it_freezes(house: Served) -> None:
    assert works(house, 1)
    with load(house) as answered:
        victim = embedder_of(house)
        some_more(answered, "all is well")
        with frozen(victim):
            some_more(answered, "while it stands still")
            assert house.metric("forebay_semantic_lookups_total", "answers") > 0
        some_more(answered, "when it goes on")
    # Waited for in vain, or, once that is known, not asked: it would answer too late.
    in_vain = ('outcome="timeout"', 'outcome="embed_error"')
    assert [line for line in house.http.get("/metrics").text.splitlines() if any(one in line for one in in_vain)]
    numbers = count(2)
    eventually(lambda: works(house, next(numbers)), "near texts are found again")


def test_the_server_is_stopped_while_a_text_is_looked_up(tmp_path: Path) -> None:
    more = ["--set", "answers.semantic_uncalibrated=true", "--set", "answers.semantic_timeout_ms=60000"]
    with serving(tmp_path, *semantic.with_embedder(semantic.letters(tmp_path), "letters", *more)) as served:
        victim = embedder_of(served)
        victim.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, served, "Where is it?")
            eventually(lambda: served.in_flight("letters") == 1, "it is looked up")
            served.stop()
            assert found(answer.result()) == ("miss", "WHERE IS IT?")
