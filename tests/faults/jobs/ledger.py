"""The ledger of a fault test: every job that was accepted, and what must become of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from tests.models.tallied import FIRST

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
RETRY_S = 0.05

Expected = float | str
"""The answer's number, worked out here and not by the model; or the code of the error that a job must end with."""


@dataclass
class Entry:
    """A job that was accepted. `seen`: the whole document of when it was first seen finished."""

    id: str
    value: float
    expected: Expected
    seen: dict[str, Any] | None = None


class Ledger:
    """Entries by id. Posters on any thread add to it."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.wrong: list[str] = []
        """What was answered and should never have been."""
        self.refused = 0
        """Submissions answered 503, which promises nothing."""
        self.unknown = 0
        """Submissions that got no answer, and were not repeated."""
        self._values = count(int(FIRST))
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

    def see(self, entry: Entry, document: dict[str, Any]) -> bool:
        """A document of it was read: judge it where it is finished, and tell whether it is."""
        if document["status"] not in TERMINAL:
            if entry.seen is not None:
                self.wrong.append(f"job {entry.id} was {entry.seen['status']} and is {document['status']}")
            return False
        if entry.seen is None:
            entry.seen = document
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


def tally(folder: Path) -> dict[float, list[int]]:
    """The runs of every value, as the model noted them when they began."""
    found: dict[float, list[int]] = {}
    path = folder / "tallied.runs"
    for line in path.read_text().splitlines() if path.exists() else []:
        value, run = line.split()
        found.setdefault(float(value), []).append(int(run))
    return found
