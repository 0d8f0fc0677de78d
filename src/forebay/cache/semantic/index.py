"""The port by which texts are kept and found by their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from forebay.cache import port
from forebay.core.tensors import Array

Way = Literal["normalised", "semantic"]
"""How a text is found: its words are those of the kept one, or its vector is near. Each can be wrong by itself."""


class Origin(NamedTuple):
    """What is known of a kept answer, so that its text goes when answers are forgotten. `place`: model and version."""

    tenant: str = ""
    place: tuple[str, str] = ("", "")
    tags: tuple[str, ...] = ()
    digest: bytes = b""

    def meant(self, which: port.Match) -> bool:
        """Whether it is one of the answers that are to be forgotten."""
        return which.fits(self.place, self.tenant, self.tags) and which.digest in (b"", self.digest)


UNKNOWN: Final = Origin()
"""Of a text that goes only where all go."""


class Kept(NamedTuple):
    """A text whose answer is kept. `normal` is its normalised form, `vector` FP32 of length 1. All of a partition have
    one tenant and one place."""

    entry_id: str
    text: str
    normal: str
    vector: Array
    origin: Origin = UNKNOWN


class Match(NamedTuple):
    """A kept text that was found, and the cosine of both vectors (1 where none was compared)."""

    entry_id: str
    text: str
    score: float


class SemanticIndex(Protocol):
    """Kept texts by partition. A partition is an index of its own: what is asked of one never touches another.

    Every partition is bounded: beyond `max_entries` the oldest leave it; and all are, in bytes: beyond these the
    partition that was not used for longest goes. Whoever makes an index closes it. An index elsewhere raises
    `DependencyError` where it cannot be reached; nothing may be found that was never added.
    """

    async def add(self, partition: str, kept: Kept) -> None:
        """Keep a text. One with the same id, or the same normalised form, gives way."""

    async def same(self, partition: str, normal: str) -> Match | None:
        """The text with this normalised form."""

    async def near(self, partition: str, vector: Array, at_least: float, most: int) -> Sequence[Match]:
        """Texts whose vectors have at least this cosine with one of length 1, best first, at most so many."""

    async def remove(self, partition: str, entry_id: str) -> None:
        """Forget a text, if it is kept."""

    async def drop(self, partition: str) -> None:
        """Forget a partition."""

    async def clear(self, which: port.Match) -> None:
        """Forget the texts of these answers, in all partitions."""

    async def count(self, partition: str) -> int:
        """How many texts a partition has."""

    async def close(self) -> None:
        """Let go of what is held."""
