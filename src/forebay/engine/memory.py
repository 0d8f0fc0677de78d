"""What the processes of a model hold of the machine's memory, and what is left of it (Linux; 0 where the system does
not tell)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LIMIT, USED, STATISTICS = "memory.max", "memory.current", "memory.stat"
"""Files of a control group, version 2. Source: Documentation/admin-guide/cgroup-v2.rst of Linux."""


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


def available_bytes() -> int:
    """Bytes that processes can still get: of the machine, or of the container or service that this process is in."""
    groups = []
    for folder in _groups(_text(Path("/proc/self/cgroup"))):
        groups.append({name: _text(CGROUPS / folder / name) for name in (LIMIT, USED, STATISTICS)})
    return least_bytes(_text(Path("/proc/meminfo")), groups)


def least_bytes(meminfo: str, groups: Iterable[Mapping[str, str]]) -> int:
    """What is left by these texts: /proc/meminfo, and of each control group its files, empty where there are none."""
    left = [kib * 1024 for kib in _numbers(meminfo, "MemAvailable:")]
    for group in groups:
        # "max" is no limit, and the root has no such files.
        if group[LIMIT].strip().isdecimal() and group[USED].strip().isdecimal():
            # Files that are merely kept count as used, and make room as soon as it is needed.
            kept = sum(_numbers(group[STATISTICS], "inactive_file"))
            left.append(max(1, int(group[LIMIT]) - int(group[USED]) + kept))
    return min(left, default=0)


def _groups(own: str) -> list[str]:
    """This process's group and those above it, by /proc/self/cgroup: each may have a limit."""
    for line in own.splitlines():
        if line.startswith("0::/"):
            folder = Path(line[len("0::/") :])
            return [str(one) for one in (folder, *folder.parents)]
    return []


def _numbers(text: str, name: str) -> list[int]:
    return [int(words[1]) for line in text.splitlines() if (words := line.split())[:1] == [name] and len(words) > 1]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
