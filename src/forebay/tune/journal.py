"""What was measured so far, on disk: an interrupted run goes on where it stopped.

The search is a function of what it measures. A journal keeps each answer of the world in order, and a new run of the
same search hears them again before anything is measured: it comes to where the old one was without a word of state of
its own. Where a run asks for something else than the journal has (the search was changed), the rest is forgotten: only
turns that follow each other closely can be compared.

What failed is tried again, since its cause may be mended outside of all that is known here: a library that was missing,
memory that was taken. Where it fails as before, the run goes on as the former one did.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from forebay.core.errors import SetupError
from forebay.tune.configuration import Configuration, Group
from forebay.tune.world import CannotServeError, Look, Measures, Probe

FORMAT = 1
T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """One call of the world: what was asked, seconds it took, and its answer or why there was none."""

    call: Literal["look", "probe"]
    asked: str
    took_s: float
    look: Look | None = None
    probe: Probe | None = None
    failed: str = ""


class _Document(msgspec.Struct):
    format: int
    key: dict[str, Any]
    entries: list[Entry]


class Journal:
    """A file of entries under a key. `key` holds all that the figures depend on; another key is another file."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self._key = key
        self.entries: list[Entry] = []

    def load(self) -> int:
        """Take what an earlier run has left; how much of it was measured. A file that is not usable counts as none."""
        try:
            document = msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except (OSError, msgspec.MsgspecError):
            return 0
        if document.format == FORMAT and document.key == msgspec.to_builtins(self._key):
            self.entries = document.entries
        return sum(not entry.failed for entry in self.entries)

    def save(self) -> None:
        """Write all of it, in one step: a kill leaves the old file or the new one. Raises `SetupError`."""
        document = _Document(FORMAT, self._key, self.entries)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
            temporary.replace(self.path)
        except OSError as error:
            raise SetupError(
                f"cannot keep what was measured in {self.path}: {error}; choose another --data-dir"
            ) from None


class JournaledWorld:
    """A world whose answers are kept: those of earlier runs first, then the real ones."""

    def __init__(self, world: Measures, journal: Journal, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds."""
        self._world, self._journal, self._clock = world, journal, clock
        self._place = 0
        self._spent_s = 0.0

    def spent_s(self) -> float:
        """See `World`: what the calls took, whichever run made them."""
        return self._spent_s

    def look(self, group: Group, caps: Sequence[int]) -> Look:
        """See `World`."""
        asked = f"{group.artefact} {group.size} {','.join(map(str, caps))}"
        entry = self._heard("look", asked)
        if entry is None:
            entry = self._measured("look", asked, lambda: self._world.look(group, caps), lambda look: {"look": look})
        if entry.look is None:
            raise CannotServeError(entry.failed)
        return entry.look

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        """See `World`."""
        asked = f"{configuration} {rate:.6g}" + (" final" if final else "")
        entry = self._heard("probe", asked)
        if entry is None:
            entry = self._measured(
                "probe",
                asked,
                lambda: self._world.probe(configuration, rate, final=final),
                lambda probe: {"probe": probe},
            )
        if entry.probe is None:
            raise CannotServeError(entry.failed)
        return entry.probe

    def _heard(self, call: str, asked: str) -> Entry | None:
        """What an earlier run was answered here; None where it asked something else, or got no answer."""
        entries = self._journal.entries
        if self._place >= len(entries):
            return None
        entry = entries[self._place]
        if (entry.call, entry.asked) != (call, asked):
            del entries[self._place :]
            return None
        if entry.failed:
            return None
        self._place += 1
        self._spent_s += entry.took_s
        return entry

    def _measured(
        self, call: Literal["look", "probe"], asked: str, measure: Callable[[], T], named: Callable[[T], dict[str, T]]
    ) -> Entry:
        began = self._clock()
        failed, found = "", {}
        try:
            found = named(measure())
        except CannotServeError as error:
            failed = str(error) or "it does not answer"
        took_s = self._clock() - began
        entry = Entry(call, asked, took_s, failed=failed, **found)  # type: ignore[arg-type]
        self._journal.entries[self._place : self._place + 1] = [entry]  # the one that failed, or none
        self._place += 1
        self._spent_s += took_s
        self._journal.save()
        return entry
