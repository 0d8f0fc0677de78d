"""What is left of the memory, by the texts that Linux tells it in."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.engine import memory
from forebay.engine.memory import available_bytes, least_bytes

MIB = 1 << 20
MEMINFO = "MemTotal:        8388608 kB\nMemFree:          102400 kB\nMemAvailable:    1048576 kB\n"
STATISTICS = "anon 1\nfile 3\ninactive_file {inactive}\nactive_file 5\n"


def group(limit: object, used: int = 0, inactive: int = 0) -> dict[str, str]:
    texts = (f"{limit}\n", f"{used}\n", STATISTICS.format(inactive=inactive))
    return dict(zip(("memory.max", "memory.current", "memory.stat"), texts, strict=True))


@pytest.mark.parametrize(
    ("groups", "left"),
    [
        ([], 1024 * MIB),
        ([group("max", 700 * MIB)], 1024 * MIB),
        ([group(512 * MIB, 200 * MIB)], 312 * MIB),
        ([group(512 * MIB, 500 * MIB, inactive=100 * MIB)], 112 * MIB),
        ([group(4096 * MIB, 200 * MIB)], 1024 * MIB),
        ([group("max", 9), group(512 * MIB, 12 * MIB), group(600 * MIB, 200 * MIB)], 400 * MIB),
        ([group(512 * MIB, 600 * MIB)], 1),
        ([dict.fromkeys(("memory.max", "memory.current", "memory.stat"), "")], 1024 * MIB),
    ],
    ids=["alone", "no limit", "a limit", "kept files", "a large limit", "limits above", "over it", "the root"],
)
def test_the_least_of_machine_and_groups_counts(groups: list[dict[str, str]], left: int) -> None:
    assert least_bytes(MEMINFO, groups) == left


def test_what_the_system_does_not_tell_is_no_limit() -> None:
    assert least_bytes("", []) == 0
    assert least_bytes("", [group(5 * MIB, MIB)]) == 4 * MIB


def test_the_groups_above_this_process_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, limit in (("system.slice", 3), ("system.slice/forebay.service", "max")):
        place = tmp_path / folder
        place.mkdir()
        for name, text in group(limit, 1).items():
            (place / name).write_text(text)
    real = memory._text
    own = "4:memory:/elsewhere\n0::/system.slice/forebay.service\n"
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_text", lambda file: own if file.name == "cgroup" else real(file))
    assert available_bytes() == 2
