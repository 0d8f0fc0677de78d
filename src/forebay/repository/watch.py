"""Watching repositories: what appears is loaded, what changes is loaded again, what vanishes is unloaded.

The files are looked at in turns, by size, times and inode: that works on every file system, network mounts and bind
mounts included, and needs no library. A change counts once two looks in a row have seen the same files, so that a file
that is still being copied is left alone; and what was written to while it was loaded is not served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from forebay.core.errors import AdmissionError, ForebayError, SetupError
from forebay.models.repository import Stamp
from forebay.repository.catalog import Catalog
from forebay.repository.registry import Registry
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.repository")

Looks = Mapping[str, Stamp]


class Changes:
    """Which models have settled in a new state. Pure: the caller looks and brings what it saw."""

    def __init__(self, first: Looks) -> None:
        """`first`: what the models looked like when they were loaded."""
        self._acted: dict[str, Stamp] = dict(first)
        self._seen: dict[str, Stamp | None] = {}

    def settled(self, looks: Looks, busy: frozenset[str] | set[str] = frozenset()) -> dict[str, bool]:
        """Models to act on, each told once: True to load it, False to unload it. Those that are busy wait."""
        found: dict[str, bool] = {}
        for name in {*looks, *self._acted}:
            now = looks.get(name)
            if now == self._acted.get(name):
                self._seen.pop(name, None)
            elif name not in self._seen or self._seen[name] != now:
                self._seen[name] = now
            elif name not in busy:
                del self._seen[name]
                if now is None:
                    del self._acted[name]
                else:
                    self._acted[name] = now
                found[name] = now is not None
        return found

    def again(self, name: str) -> None:
        """It could not be loaded for now: it is told once more."""
        if name in self._acted:
            self._acted[name] = ()


class Watch:
    """The loop that looks."""

    def __init__(self, registry: Registry, catalog: Catalog, interval_s: float) -> None:
        self._registry = registry
        self._catalog = catalog
        self._interval_s = interval_s
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._put_off: dict[str, str] = {}
        """Why models could not be loaded for now, which is logged once."""

    async def run(self, first: Looks) -> None:
        """Until cancelled. `first`: `catalog.stamps()` from before the models were loaded."""
        changes = Changes(first)
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                looks = await asyncio.to_thread(self._catalog.stamps)
            except (SetupError, OSError) as error:
                log.warning("the repositories cannot be looked at: %s", error)
                continue
            except Exception:  # the next look may do better; a watch that ended unseen would not
                log.exception("the repositories cannot be looked at")
                continue
            for name, there in changes.settled(looks, set(self._acting)).items():
                acting = asyncio.ensure_future(self._act(name, there, changes))
                self._acting[name] = acting
                acting.add_done_callback(lambda _, name=name: self._acting.pop(name, None))  # type: ignore[misc]

    async def _act(self, name: str, there: bool, changes: Changes) -> None:
        try:
            await (self._registry.load(name) if there else self._registry.unload(name))
            self._put_off.pop(name, None)
        except AdmissionError as error:  # there is no room, or the server ends
            if self._put_off.get(name) != error.message:
                log.warning("%s; it is tried again", error.message, extra=fields(model=name, code=error.code))
            self._put_off[name] = error.message
            changes.again(name)
        except ForebayError as error:
            log.error("%s", error.message, extra=fields(model=name, code=error.code))
        except Exception:
            log.exception("a change of files could not be followed", extra=fields(model=name))
