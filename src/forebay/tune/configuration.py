"""What is chosen between: an artefact, served by so many instances of so many threads, in batches of so many rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from forebay.core.errors import SetupError
from forebay.engine.sizing import Size, candidates

BATCH_CAPS: Final = (8, 32, 256)
"""Tried where the operator names none."""


class Group(msgspec.Struct, frozen=True, order=True):
    """Configurations that differ in their batch cap only: the same processes serve them."""

    artefact: str
    instances: int
    threads: int

    def with_cap(self, rows: int) -> Configuration:
        """One of them."""
        return Configuration(self.artefact, self.instances, self.threads, rows)

    @property
    def size(self) -> str:
        """`2x1`: 2 instances of 1 thread."""
        return f"{self.instances}x{self.threads}"


class Configuration(Group, frozen=True, order=True):
    """`artefact` is its name among those that were given; `max_batch_rows` the cap."""

    max_batch_rows: int

    @property
    def group(self) -> Group:
        """All that differ in the cap only."""
        return Group(self.artefact, self.instances, self.threads)

    @property
    def cost(self) -> tuple[int, int]:
        """What it takes of the machine, to be compared: threads in all, then processes."""
        return self.instances * self.threads, self.instances

    def __str__(self) -> str:
        return f"{self.artefact} {self.size} cap {self.max_batch_rows}"


def grid(
    artefacts: Sequence[str],
    instances: Sequence[int],
    threads: Sequence[int],
    caps: Sequence[int],
    cores: int,
) -> list[Configuration]:
    """All that there is to choose between. Empty lists leave the choice to us: what can make use of the cores.

    Where instances and threads are both named, every pair is taken; where one is, what fits on the cores.
    """
    if instances and threads:
        sizes = [Size(i, t) for i in instances for t in threads]
    else:
        usual = Size(cores, 1)
        groups = candidates(cores, usual, instances=None, threads=None, most_instances=cores)
        sizes = [size for group in groups for size in group]
        if instances:
            counts = sorted({size.threads for size in sizes})
            sizes = [Size(i, t) for i in instances for t in counts if i * t <= max(cores, i)]
        elif threads:
            numbers = sorted({size.instances for size in sizes})
            sizes = [Size(i, t) for t in threads for i in numbers if i * t <= max(cores, t)]
    sizes = sorted(set(sizes), key=lambda size: (size.threads, -size.instances))
    rows = sorted(set(caps or BATCH_CAPS))
    return [
        Configuration(artefact, size.instances, size.threads, cap)
        for artefact in artefacts
        for size in sizes
        for cap in rows
    ]


def parse_counts(flag: str, text: str | None) -> list[int]:
    """`1,2` as numbers; empty for None. Raises `SetupError` (`config_error`) that names flag and value."""
    if text is None:
        return []
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= 4096 for word in words):
        raise SetupError(f"{flag} {text!r}: write whole numbers from 1 to 4096 with commas, such as {flag} 1,2,4")
    return sorted({int(word) for word in words})
