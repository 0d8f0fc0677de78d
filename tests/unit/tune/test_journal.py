"""An interrupted run goes on where it stopped, and one that went to its end is not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.tune.fake_machine import FakeMachine
from tests.unit.tune.test_search import SIZES, SLO, random_machine

from forebay.core.errors import SetupError
from forebay.tune.configuration import Configuration, Group
from forebay.tune.contender import Outcome
from forebay.tune.journal import Journal, JournaledWorld
from forebay.tune.search import search
from forebay.tune.world import Look, Probe

KEY = {"slo": "p99 <= 50 ms", "digest": "abc"}


class Interrupting(FakeMachine):
    """Ctrl-C in the middle of the call after so many."""

    calls_left = 0

    def look(self, group: Group, caps: Sequence[int]) -> Look:
        self._count()
        return super().look(group, caps)

    def probe(self, configuration: Configuration, rate: float, *, final: bool = False) -> Probe:
        self._count()
        return super().probe(configuration, rate, final=final)

    def _count(self) -> None:
        if not self.calls_left:
            raise KeyboardInterrupt
        self.calls_left -= 1


def run(machine: FakeMachine, path: Path, key: dict[str, str] | None = None) -> Outcome:
    journal = Journal(path, dict(key or KEY))
    journal.load()
    return search(SIZES, SLO, JournaledWorld(machine, journal, machine.clock), 600.0, lambda _line: None)


def test_a_run_that_is_interrupted_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    steady = FakeMachine(random_machine(3).capacities, SLO)
    whole = run(steady, tmp_path / "whole.json")
    machine = Interrupting(steady.capacities, SLO)
    outcome = None
    while outcome is None:
        machine.calls_left = 4
        try:
            outcome = run(machine, tmp_path / "parts.json")
        except KeyboardInterrupt:
            continue
    assert outcome == whole
    assert machine.probed == steady.probed, "nothing was measured twice"
    assert outcome.spent_s == pytest.approx(steady.now_s)


def test_a_finished_run_is_heard_again_without_measuring(tmp_path: Path) -> None:
    machine = random_machine(5)
    first = run(machine, tmp_path / "t.json")
    before = machine.now_s
    assert run(machine, tmp_path / "t.json") == first
    assert machine.now_s == before


def test_only_what_failed_is_tried_again(tmp_path: Path) -> None:
    machine = FakeMachine(dict.fromkeys(SIZES, 100.0), SLO)
    machine.dead = frozenset(one for one in SIZES if one.instances == 2)
    first = run(machine, tmp_path / "t.json")
    failed = [group for group in machine.looked if group.instances == 2]
    assert failed
    machine.looked.clear()
    machine.probed.clear()
    assert run(machine, tmp_path / "t.json") == first
    assert machine.looked == failed
    assert machine.probed == []
    journal = Journal(tmp_path / "t.json", dict(KEY))
    assert journal.load() == len(journal.entries) - len(failed)


def test_a_failure_whose_cause_is_mended_is_none_any_more(tmp_path: Path) -> None:
    true = {one: 100.0 * one.instances for one in SIZES}
    machine = FakeMachine(true, SLO)
    machine.dead = frozenset(one for one in SIZES if one.instances == 2)
    assert run(machine, tmp_path / "t.json").chosen.instances == 1
    machine.dead = frozenset()
    mended = run(machine, tmp_path / "t.json")
    assert mended.chosen.instances == 2
    before = machine.now_s
    assert run(machine, tmp_path / "t.json") == mended
    assert machine.now_s == before, "now that nothing fails, nothing is measured again"


def test_where_everything_failed_the_next_run_tries_everything_again(tmp_path: Path) -> None:
    machine = FakeMachine(dict.fromkeys(SIZES, 100.0), SLO, dead=frozenset(SIZES))
    with pytest.raises(SetupError, match="no configuration can be served"):
        run(machine, tmp_path / "t.json")
    machine.dead = frozenset()
    assert run(machine, tmp_path / "t.json").chosen in SIZES


def test_a_run_with_failures_that_is_interrupted_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    dead = frozenset(one for one in SIZES if one.instances == 2)
    steady = FakeMachine(random_machine(3).capacities, SLO, dead=dead)
    whole = run(steady, tmp_path / "whole.json")
    machine = Interrupting(steady.capacities, SLO, dead=dead)
    outcome = None
    while outcome is None:
        machine.calls_left = 8
        try:
            outcome = run(machine, tmp_path / "parts.json")
        except KeyboardInterrupt:
            continue
    assert outcome == whole
    assert machine.probed == steady.probed, "no probe was made twice"


def test_another_key_begins_afresh(tmp_path: Path) -> None:
    machine = random_machine(5)
    run(machine, tmp_path / "t.json")
    before = machine.now_s
    run(machine, tmp_path / "t.json", {**KEY, "digest": "other"})
    assert machine.now_s > before


def test_a_search_that_asks_otherwise_keeps_only_what_it_can_use(tmp_path: Path) -> None:
    machine = FakeMachine(random_machine(5).capacities, SLO)
    run(machine, tmp_path / "t.json")
    looks = len(machine.looked)
    journal = Journal(tmp_path / "t.json", dict(KEY))
    journal.load()
    outcome = search(SIZES[:3], SLO, JournaledWorld(machine, journal, machine.clock), 600.0, lambda _line: None)
    assert outcome.chosen in SIZES[:3]
    assert len(machine.looked) == looks, "the first look was the same"
    assert journal.entries[1].call == "probe"


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 99, "key": {}, "entries": []}'])
def test_a_file_that_is_not_usable_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    journal = Journal(tmp_path / "t.json", dict(KEY))
    assert journal.load() == 0


def test_a_folder_that_cannot_be_written_to_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="--data-dir"):
        run(random_machine(1), tmp_path / "file" / "t.json")
