"""The ledger of a fault test: every job that was accepted, and what must become of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})

Expected = float | str
"""The answer's number, worked out here and not by the model; or the code of the error that a job must end with."""


@dataclass
class Entry:
    """A job that was accepted. `seen`: the whole document of when it was first seen finished; `seen_s`: when that was,
    by the monotonic clock."""

    id: str
    value: float
    expected: Expected
    seen: dict[str, Any] | None = None
    seen_s: float = math.inf


class Ledger:
    """Entries by id. Posters on any thread add to it."""

    def __init__(self, values: Iterator[int]) -> None:
        """`values`: of jobs, none of which the store has seen."""
        self.entries: dict[str, Entry] = {}
        self.wrong: list[str] = []
        """What was answered and should never have been."""
        self.refused = 0
        """Submissions answered 503, which promises nothing."""
        self.unknown = 0
        """Submissions that got no answer, and were not repeated."""
        self._values = values
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    def value(self) -> float:
        """One that no other job has."""
        return float(next(self._values))

    def accept(self, id: str, value: float, expected: Expected | None = None) -> Entry:
        """A 202 was answered. Without `expected` it is the answer of the model `tallied`."""
        entry = Entry(id, value, value * 2 + 1 if expected is None else expected)
        with self._lock:
            before = self.entries.setdefault(id, entry)
        if before.value != value:
            self.wrong.append(f"job {id} was given to {before.value:g} and to {value:g}")
        return before

    def see(self, entry: Entry, document: dict[str, Any], asked_s: float) -> bool:
        """A document of it, asked for at `asked_s`: judge it where it is finished, and tell whether it is."""
        if document["status"] not in TERMINAL:
            if asked_s > entry.seen_s:
                self.wrong.append(f"job {entry.id} was finished and is {document['status']}: {entry.seen}")
            return False
        if entry.seen is None:
            entry.seen, entry.seen_s = document, time.monotonic()
            if found := _faulty(entry, document):
                self.wrong.append(f"job {entry.id} of {entry.value:g}: {found}")
        return True

    def changed(self, document: dict[str, Any]) -> bool:
        """Whether a finished job differs from what it was when it was first seen so: another result was committed."""
        return document != self.entries[document["id"]].seen


def _faulty(entry: Entry, document: Mapping[str, Any]) -> str:
    """What is wrong with how a job ended; empty: nothing."""
    if isinstance(entry.expected, str):
        code = document.get("error", {}).get("code")
        return "" if code == entry.expected else f"{document['status']}, {code}, not {entry.expected}"
    if document["status"] != "succeeded":
        return f"{document['status']}: {document.get('error')}"
    (found,) = document["output"]["output"]["y"]
    return "" if found == entry.expected else f"{found}, not {entry.expected}"


def run_of(document: Mapping[str, Any]) -> int:
    """Which run of the model a finished job's output is from."""
    (run,) = document["output"]["output"]["run"]
    return int(run)


def batches_with(folder: Path, values: Iterable[float]) -> list[list[int]]:
    """The runs of every batch that one of the values was in, in their order."""
    runs = tally(folder)
    of_interest = {run for value in values for run in runs.get(value, [])}
    batches: list[list[int]] = []
    for run in sorted(run for each in runs.values() for run in each if run):
        if batches and run == batches[-1][-1] + 1:
            batches[-1].append(run)
        else:
            batches.append([run])
    return [batch for batch in batches if not of_interest.isdisjoint(batch)]


def tally(folder: Path) -> dict[float, list[int]]:
    """The runs of every value, as the model noted them when they began."""
    found: dict[float, list[int]] = {}
    path = folder / "tallied.runs"
    for line in path.read_text().splitlines() if path.exists() else []:
        value, run = line.split()
        found.setdefault(float(value), []).append(int(run))
    return found


class Began:
    """The values whose run has begun, by a tally that is read on from where it was read to: all of a long one takes
    longer than a batch, and what ran at the first line is over at the last."""

    def __init__(self, folder: Path) -> None:
        self.values = set[float]()
        self._path, self._read_bytes = folder / "tallied.runs", 0

    def look(self) -> None:
        """Read what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, _, _ = file.read().rpartition(b"\n")
        if whole:
            self._read_bytes += len(whole) + 1
            self.values |= {float(line.split()[0]) for line in whole.splitlines()}


def at_s(time_of: str) -> float:
    """A time of a job's document as seconds since 1970."""
    return datetime.fromisoformat(time_of).timestamp()
