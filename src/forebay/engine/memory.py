"""What the processes of a model hold of the machine's memory (Linux; 0 where the system does not tell)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def held_bytes(pids: Iterable[int]) -> int:
    """Bytes that these processes hold together. Pages that several share count once, where the kernel tells that."""
    return sum(_proportional_bytes(pid) or _resident_bytes(pid) for pid in pids)


def _proportional_bytes(pid: int) -> int:
    """The proportional set size: a page that n processes share counts 1/n in each."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
