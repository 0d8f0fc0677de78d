"""The user's function: what it does not return is not on disk, in no form."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from tests.unit.request_log.rig import NUMBERS, TEXTS, Rig, all_bytes, numbers_of, texts_of

from forebay.core.errors import SetupError
from forebay.request_log.segment import Damage, Segment

SECRETS = ("ada.lovelace@example.org", "+49 170 5550123", "4111 1111 1111 1111")
MODULE = r"""
import re
PATTERNS = [r"[\w.]+@[\w.]+", r"\+\d[\d ]+\d", r"(\d{4} ){3}\d{4}"]

def redact(row):
    for part in ("inputs", "outputs"):
        for name, text in row[part].items():
            for pattern in PATTERNS:
                text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
            row[part][name] = text
    row["parameters"] = {}
    return row

def first_letter(row):
    return {"inputs": {"text": row["inputs"]["text"][:1]}}

def drop(row):
    return None

def fails(row):
    raise ValueError("cannot redact " + row["inputs"]["text"])

def wrong(row):
    return row["inputs"]["text"]

def leaves(row):
    raise SystemExit(3)

def unknown(row):
    return {"inputs": {"other": row["inputs"]["text"]}}

def number(row):
    return {"inputs": {"text": 7}}

def no_json(row):
    return {"parameters": {"x": object()}}

def rounded(row):
    row["inputs"]["x"] = row["inputs"]["x"].round()
    row["outputs"].clear()
    return row

def another_axis(row):
    return {"inputs": {"x": [[1.0, 2.0]]}}

value = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "redact.py"
    path.write_text(MODULE)
    return path


def rig_of(module: Path, name: str, **more: object) -> Rig:
    return Rig(module.parent / "data", **{"signature": TEXTS, **more}, request_log_redact=f"{module}:{name}")  # type: ignore[arg-type]


def test_planted_data_are_nowhere_in_the_log(module: Path) -> None:
    rig = rig_of(module, "redact")
    for number in range(50):
        for secret in SECRETS:
            rig.ask(f"call {number}: {secret} please", tenant="acme", note=secret, session=f"of {secret}")
    found = rig.close().read()
    assert len(found) == 50  # all secrets look alike now
    assert texts_of(found)[0] == "call 0: *** please"
    assert found[0].row.outputs["upper"].item() == b"CALL 0: *** PLEASE"
    raw = all_bytes(rig.data_dir).lower()
    assert b"call 49" in raw
    for secret in SECRETS:
        assert secret.lower().encode() not in raw
    assert (rig.counts.written, rig.counts.dropped) == (50, {"duplicate": 100})


def test_no_digest_of_what_was_taken_away_is_kept(module: Path) -> None:
    """From a digest of a short secret the secret is soon found: keys are of what is written."""
    plain, hidden = Rig(module.parent / "plain", TEXTS), rig_of(module, "first_letter")
    for rig in (plain, hidden):
        rig.ask("4711")
        rig.close()
    (file,) = plain.folder.rglob("*.rows")
    (key,) = Segment(file, Damage()).row_keys()
    assert key in all_bytes(plain.data_dir)
    raw = all_bytes(hidden.data_dir)
    assert key not in raw
    assert b"4711" not in raw
    for digest in (hashlib.sha256(b"4711").digest(), hashlib.md5(b"4711").digest()):
        assert digest[:8] not in raw


def test_what_is_left_away_is_not_written(module: Path) -> None:
    rig = rig_of(module, "first_letter")
    rig.ask("abc", temperature=1)
    (found,) = rig.close().read()
    assert (texts_of([found]), found.row.outputs, found.row.parameters) == (["a"], {}, {})


def test_a_row_can_be_dropped(module: Path) -> None:
    rig = rig_of(module, "drop")
    rig.ask("abc", "def")
    assert rig.close().read() == []
    assert rig.counts.dropped == {"redacted": 2}
    assert b"abc" not in all_bytes(rig.data_dir)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fails", "it raised ValueError at redact.py:"),
        ("leaves", "it raised SystemExit at redact.py:"),
        ("wrong", "it returned something else than None or a dict"),
        ("unknown", "its inputs have names that the row has not"),
        ("number", "inputs 'text' is not what it was"),
        ("no_json", "the parameters that it returned are no JSON"),
    ],
)
def test_whatever_goes_wrong_nothing_is_written_and_nothing_is_told(
    module: Path, name: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = rig_of(module, name)
    for number in range(3):
        rig.ask(f"{number} {SECRETS[0]}")
    assert rig.close().read() == []
    assert rig.counts.dropped == {"redaction_failed": 3}
    assert caplog.text.count(why) == 1  # not once a row
    assert SECRETS[0] not in caplog.text
    assert SECRETS[0].encode() not in all_bytes(rig.data_dir)


def test_numbers_are_arrays_that_it_may_change(module: Path) -> None:
    rig = rig_of(module, "rounded", signature=NUMBERS)
    rig.ask([1.4, 2.6])
    (found,) = rig.close().read()
    assert (numbers_of([found]), found.row.outputs) == ([[1, 3]], {})


def test_an_array_keeps_its_axes(module: Path) -> None:
    rig = rig_of(module, "another_axis", signature=NUMBERS)
    rig.ask([1, 2])
    assert rig.close().read() == []
    assert rig.counts.dropped == {"redaction_failed": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{folder}/none.py:redact", "FileNotFoundError: there is no file .*none.py"),
        ("no_such_module_here:redact", "cannot be imported: ModuleNotFoundError"),
        ("{folder}/redact.py:absent", "has no function absent; write def absent"),
        ("{folder}/redact.py:value", "has something else than a function called value"),
        ("{folder}/broken.py:redact", "it has a syntax error at line 2; mend it"),
    ],
)
def test_a_function_that_is_none_stops_the_start(module: Path, text: str, why: str) -> None:
    (module.parent / "broken.py").write_text("ok = 1\ndef redact(row:\n")
    with pytest.raises(SetupError, match=f"model m: request_log_redact cannot be .*{why}"):
        Rig(module.parent / "data", TEXTS, request_log_redact=text.format(folder=module.parent))
    assert not (module.parent / "data").exists()


def test_a_module_that_ends_its_process_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\nprint('bye')\nsys.exit(0)\n")
    with pytest.raises(SetupError, match=r"ends.py cannot be imported: SystemExit: 0"):
        Rig(tmp_path / "data", TEXTS, request_log_redact=f"{tmp_path / 'ends.py'}:redact")


def test_a_function_of_a_module(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_redaction.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    # Another process looks whether it is there.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    rig = Rig(tmp_path / "data", TEXTS, request_log_redact="my_redaction:first_letter")
    rig.ask("abc")
    assert texts_of(rig.close().read()) == ["a"]
