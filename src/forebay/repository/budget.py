"""Which models to unload so that the others fit into a limit of memory. Pure: the caller measures and unloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is loaded: what it holds, when it was last used (any clock), and whether it is in use now."""

    name: str
    held_bytes: int
    last_used: float
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """What to do about a need. `over_bytes`: so much is too much still, when all of `unload` is gone."""

    unload: tuple[str, ...] = ()
    over_bytes: int = 0


def make_room(loaded: Sequence[Loaded], need_bytes: int, limit_bytes: int) -> Room:
    """Whom to unload, the least recently used first, so that `need_bytes` more fit; nobody where that is not enough.

    Models in use are never unloaded.
    """
    over_bytes = sum(one.held_bytes for one in loaded) + need_bytes - limit_bytes
    unload: list[str] = []
    for one in sorted(loaded, key=lambda one: one.last_used):
        if over_bytes <= 0:
            break
        if not one.in_use:
            unload.append(one.name)
            over_bytes -= one.held_bytes
    return Room(tuple(unload)) if over_bytes <= 0 else Room((), over_bytes)
