"""The bound holds whatever happens, the oldest rows go first, and what is gone may be written again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.request_log.rig import TEXTS, Rig, entries, texts_of

from forebay.request_log import store
from forebay.request_log.folder import clear, pieces

BOUND = 1 << 16


def held(rig: Rig) -> int:
    return sum(piece.size for piece in pieces(rig.folder))


def text(number: int) -> str:
    return f"{number:06d} " + "x" * 500


def test_the_oldest_go_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    for number in range(300):
        rig.ask(text(number), tenant="acme" if number % 2 else "")
    found = [int(word[:6]) for word in texts_of(rig.close().read())]
    assert BOUND * 0.8 < held(rig) <= BOUND
    assert sorted(found)[-30:] == list(range(270, 300))
    assert min(found) > 150
    assert rig.counts.written == 300


def test_the_bound_is_that_of_all_processes_and_holds_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        rigs = [Rig(tmp_path, TEXTS, request_log_bytes=BOUND) for _ in range(2)]
        for number in range(150):
            for place, rig in enumerate(rigs):
                rig.ask(text(number + 1000 * place))
        for rig in rigs:
            rig.close()
            assert held(rig) <= BOUND
    assert len(rigs[0].read()) > 30


def test_a_bound_that_is_smaller_now_is_kept_with_the_next_row(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS, request_log_bytes=4 * BOUND)
    for number in range(300):
        rig.ask(text(number))
    assert held(rig.close()) > 2 * BOUND
    smaller = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    smaller.ask(text(1000))
    assert held(smaller.close()) <= BOUND
    assert texts_of(smaller.read())[-1] == text(1000)


def test_what_went_may_come_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    for number in (*range(300), 0):
        rig.ask(text(number))
    assert texts_of(rig.close().read())[-1] == text(0)
    assert rig.counts.dropped == {}


def test_clearing_while_it_writes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    rig.ask("a", tenant="acme")
    rig.ask("b", tenant="other")
    rig.close()
    writing = Rig(tmp_path, TEXTS)
    appended = writing.destination.store
    writing.ask("c", tenant="acme")
    writing.close()
    assert clear(rig.folder, ["acme"])[0] == 2
    assert texts_of(rig.read()) == ["b"]
    again = Rig(tmp_path, TEXTS)
    again.ask("a", tenant="acme")
    again.ask("b", tenant="other")
    again.close()
    assert sorted(texts_of(again.read())) == ["a", "b"]
    assert again.counts.dropped == {"duplicate": 1}
    assert appended is not again.destination.store


def test_a_file_that_is_taken_away_is_not_written_to_any_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    appended = rig.destination.store
    appended.append(entries(rig, "a"))
    clear(rig.folder)
    appended.append(entries(rig, "b"))
    appended.append(entries(rig, "a"))  # it was forgotten, so it is no duplicate
    appended.close()
    assert texts_of(rig.read()) == ["b", "a"]


def test_a_row_that_is_larger_than_all_there_may_be(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    rig.ask("x" * BOUND)
    rig.ask("a", secret="y" * BOUND)
    assert rig.close().read() == []
    assert rig.counts.dropped == {"too_large": 2}


def test_keys_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_KEYS", 20)
    rig = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    for number in range(200):
        rig.ask(text(number))
    rig.ask(text(199))
    rig.close()
    assert len(rig.destination.store._keys) <= 20
    again = Rig(tmp_path, TEXTS, request_log_bytes=BOUND)
    again.ask(text(199))
    again.close()
    assert again.counts.dropped == {"duplicate": 1}
    assert len(again.destination.store._keys) <= 20


def test_few_files_are_held_open_however_many_tenants_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_OPEN", 3)
    rig = Rig(tmp_path, TEXTS)
    for number in range(60):
        rig.ask(text(number), tenant=f"t{number % 20}")
    rig.logs.leave(rig.outlet)
    rig.close()
    files = list(rig.folder.rglob("*.rows"))
    assert len(files) == 20  # they are appended to again
    assert len(rig.read()) == 60


def test_rows_that_are_redacted_share_no_file_with_others(tmp_path: Path) -> None:
    """By their file they are known: a model may be loaded anew with another setting, by the same process."""
    rig = Rig(tmp_path, TEXTS)
    first, second = entries(rig, "a", "b")
    changed = msgspec.structs.replace(second.origin, redacted=True)
    rig.destination.store.append([first, second._replace(origin=changed)])
    rig.destination.store.close()
    assert [(*texts_of([one]), one.origin.redacted) for one in rig.read()] == [("a", False), ("b", True)]


def test_descriptors_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_OPEN", 3)
    rig = Rig(tmp_path, TEXTS)
    rig.destination.store.append(
        [
            entry._replace(origin=msgspec.structs.replace(entry.origin, tenant=f"t{number % 20}"))
            for number, entry in enumerate(entries(rig, *map(text, range(60))))
        ]
    )
    held = [one for one in rig.destination.store._open.values() if one.fd is not None]
    assert (len(rig.destination.store._open), len(held)) == (20, 3)
    rig.destination.store.close()
    assert len(rig.read()) == 60
