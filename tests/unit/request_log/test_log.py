"""From an answered request to a row on disk and back."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from tests.unit.request_log.rig import NUMBERS, TEXTS, Rig, entries, numbers_of, texts_of

from forebay.core.errors import SetupError
from forebay.core.request import Outputs, Payload, Request
from forebay.core.settings import ModelSettings
from forebay.core.tensors import NUMPY_TYPES, bytes_array, to_buffer
from forebay.models.signature import Signature, TensorSpec
from forebay.request_log.folder import folder_name, model_folder, models_in
from forebay.request_log.logs import RequestLogs
from forebay.request_log.reading import Reading, parts_of
from forebay.request_log.row import data_of, unpack
from forebay.request_log.segment import Damage
from forebay.request_log.store import Entry
from forebay.request_log.wire import Taken


def test_rows_with_their_answers_come_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path, labels=("a", "b"))
    rig.ask([1, 2], [3, 4], tenant="acme", temperature=0.5)
    rig.ask([5, 6])
    first, second, third = rig.close().read()
    assert numbers_of([first, second, third]) == [[1, 2], [3, 4], [5, 6]]
    assert [one.row.outputs["y"].tolist() for one in (first, second, third)] == [[1], [3], [5]]
    assert (first.origin.model, first.origin.version, first.origin.digest) == ("m", "1", "d1")
    assert (first.origin.tenant, third.origin.tenant) == ("acme", "anonymous")
    assert first.origin.labels == ("a", "b")
    assert (first.row.parameters, third.row.parameters) == ({"temperature": 0.5}, {})
    counts = rig.counts
    assert (counts.sampled, counts.written, counts.dropped) == (3, 3, {})
    held = sum(path.stat().st_size for path in rig.folder.rglob("*.rows"))
    assert rig.logs.metrics.held_bytes == {"m": held}
    assert 0 < counts.written_bytes < held


def test_every_datatype_and_models_that_do_not_batch(tmp_path: Path) -> None:
    specs = [TensorSpec(name.lower(), name, (2,)) for name in NUMPY_TYPES]
    signature = Signature(tuple(specs), (TensorSpec("y", "FP32", (-1,)),), batched=False)
    arrays = [
        bytes_array([b"\xff", "grün".encode()], (2,)) if name == "BYTES" else np.array([0, 1]).astype(dtype)
        for name, dtype in NUMPY_TYPES.items()
    ]
    rig = Rig(tmp_path, signature)
    payloads = [to_buffer(array, spec.datatype) for array, spec in zip(arrays, specs, strict=True)]
    request = Request(list(payloads), ((2,),) * len(specs), 1, 99, 0.0, 0.0, lambda _: None)
    rig.sampler.take(request, Outputs(["y"], ["FP32"], [np.arange(3, dtype=np.float32)], 1), 0)
    (found,) = rig.close().read()
    for spec, array in zip(specs, arrays, strict=True):
        assert found.row.inputs[spec.name].dtype == array.dtype
        assert found.row.inputs[spec.name].tolist() == array.tolist()
    assert found.row.outputs["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("tenant", ["anonymous", "acme"])
@pytest.mark.parametrize("as_list", [True, False], ids=["list", "bytes"])
def test_a_row_is_written_alike_whether_somebody_looks_at_it_or_not(tmp_path: Path, as_list: bool, tenant: str) -> None:
    datatypes = list(NUMPY_TYPES)
    signature = Signature(
        tuple(TensorSpec(name.lower(), name, (2,)) for name in datatypes),
        tuple(TensorSpec("out_" + name.lower(), name, (-1,)) for name in datatypes),
    )
    arrays = [
        bytes_array([b"\xff", "grün".encode()], (1, 2)) if name == "BYTES" else np.array([[0, 1]]).astype(dtype)
        for name, dtype in NUMPY_TYPES.items()
    ]
    payloads: list[Payload] = [to_buffer(array, name) for array, name in zip(arrays, datatypes, strict=True)]
    if as_list:
        payloads[datatypes.index("FP32")] = payloads[datatypes.index("FP64")] = [0.0, 1.0]
    rig = Rig(tmp_path, signature)

    def written() -> Entry:
        shapes = ((2,),) * len(datatypes)
        answer = [(array.shape, data_of(array)) for array in arrays]
        taken = Taken(tenant, 1_700_000_000.0, 1, shapes, list(payloads), answer, {"b": 1, "a": "x"})
        (entry,) = rig.destination.entries(taken)
        return entry

    plain = written()
    rig.destination._redact = lambda row: row
    looked_at = written()
    assert unpack(plain.body).inputs["bytes"].tolist() == [b"\xff", "grün".encode()]
    assert (plain.key, plain.body, plain.origin) == (looked_at.key, looked_at.body, looked_at.origin)


def test_neighbours_are_written_as_each_would_be_by_itself(tmp_path: Path) -> None:
    rows = [[1, 2], [3, 4], [1, 2], [5, 6]]
    together, alone = Rig(tmp_path / "together"), Rig(tmp_path / "alone")
    for rig in (together, alone):
        rig.sampler._clock = lambda: 1_700_000_000.0
    together.ask_together(*rows, tenant="acme")
    for row in rows:
        alone.ask(row, tenant="acme")
    found, expected = together.close().read(), alone.close().read()
    assert numbers_of(found) == numbers_of(expected) == [[1, 2], [3, 4], [5, 6]]
    assert [one.row.outputs["y"].tolist() for one in found] == [[1], [3], [5]]
    assert together.counts.dropped == alone.counts.dropped == {"duplicate": 1}
    (written,), (by_itself,) = (list(rig.folder.rglob("*.rows")) for rig in (together, alone))
    assert written.read_bytes() == by_itself.read_bytes()


def test_neighbours_are_redacted_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "redact.py").write_text("def redact(row):\n    return None if row['inputs']['x'][0] == 3 else row\n")
    rig = Rig(tmp_path, request_log_redact=f"{tmp_path / 'redact.py'}:redact")
    rig.ask_together([1, 2], [3, 4], [5, 6])
    assert numbers_of(rig.close().read()) == [[1, 2], [5, 6]]
    assert rig.counts.dropped == {"redacted": 1}


def test_a_number_that_does_not_fit_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.ask_together([1, 2], [3, 1e300], [5, 6])
    assert numbers_of(rig.close().read()) == [[1, 2], [5, 6]]
    assert rig.counts.dropped == {"stopped": 1}


def test_texts_that_are_single_values_have_no_axis(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("text", "BYTES", ()),), (TensorSpec("y", "FP32", ()),))
    rig = Rig(tmp_path, signature)
    request = Request([to_buffer(bytes_array([b"a", b"b"], (2,)), "BYTES")], ((),), 2, 10, 0.0, 0.0, lambda _: None)
    rig.sampler.take(request, Outputs(["y"], ["FP32"], [np.array([1, 2], np.float32)], 2), 0)
    assert [(one.row.inputs["text"].shape, one.row.outputs["y"].item()) for one in rig.close().read()] == [
        ((), 1.0),
        ((), 2.0),
    ]


def test_equal_rows_are_written_once_of_each_tenant(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for tenant in ("", "acme", "", "acme"):
        rig.ask([1, 2], tenant=tenant)
    rig.ask([1, 2], [1, 2], [1, 3])
    rig.ask([1, 2], temperature=0.1)  # another parameter is another question
    found = rig.close().read()
    assert sorted((one.origin.tenant, *one.row.inputs["x"].tolist()) for one in found) == [
        ("acme", 1, 2),
        ("anonymous", 1, 2),
        ("anonymous", 1, 2),
        ("anonymous", 1, 3),
    ]
    assert rig.counts.dropped == {"duplicate": 4}


def test_equal_rows_are_known_after_a_restart(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.ask([1, 2])
    first.close()
    second = Rig(tmp_path)
    second.ask([1, 2])
    second.ask([3, 4])
    second.close()
    assert second.counts.dropped == {"duplicate": 1}
    assert sorted(numbers_of(second.read())) == [[1, 2], [3, 4]]


def test_processes_write_beside_each_other(tmp_path: Path) -> None:
    one, other = Rig(tmp_path), Rig(tmp_path)
    for number in range(20):
        one.ask([number, 1])
        other.ask([number, 2])
    one.ask([7, 7])
    one.close()
    other.ask([7, 7])  # written by both perhaps, read once
    found = other.close().read()
    assert len(found) == 41
    assert sorted(map(tuple, numbers_of(found)))[:3] == [(0, 1), (0, 2), (1, 1)]


def test_tenants_and_versions_can_be_read_apart(tmp_path: Path) -> None:
    one, two = Rig(tmp_path), Rig(tmp_path, version="2")
    one.ask([1, 1], tenant="acme")
    one.ask([2, 2], tenant="other")
    two.ask([3, 3], tenant="acme")
    one.close()
    two.close()
    assert sorted(numbers_of(one.read(tenants=["acme"]))) == [[1, 1], [3, 3]]
    assert numbers_of(one.read(versions=["2"])) == [[3, 3]]
    assert numbers_of(one.read(tenants=["other"], versions=["2"])) == []
    parts = [(part.version, part.tenant, part.rows, part.files) for part in parts_of(one.folder, Damage())]
    assert parts == [("1", "acme", 1, 1), ("1", "other", 1, 1), ("2", "acme", 1, 1)]


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "requests").mkdir(mode=0o755)
    rig = Rig(tmp_path)
    rig.ask([1, 2], tenant="acme")
    rig.close()
    below = [tmp_path / "requests", *(tmp_path / "requests").rglob("*")]
    for path in below:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert any(path.suffix == ".rows" for path in below)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "x" * 300, "a~b", "grün", ".lock", "../../etc", "CON\n"])
def test_no_name_leads_elsewhere(tmp_path: Path, name: str) -> None:
    found = folder_name(name)
    assert found == Path(found).name
    assert found not in ("", ".", "..", ".lock")
    assert len(found) < 200
    assert folder_name(found) != found or found == name


def test_models_are_found_by_name_whatever_their_folders_are_called(tmp_path: Path) -> None:
    logs = RequestLogs()
    for name in ("plain", "odd/name"):
        logs.open(name, "1", "d", NUMBERS, (), ModelSettings(request_log=0.5), tmp_path)
    assert set(models_in(tmp_path)) == {"plain", "odd/name"}
    assert models_in(tmp_path / "nowhere") == {}


def test_a_model_that_wants_no_log_has_none(tmp_path: Path) -> None:
    logs = RequestLogs()
    assert logs.open("m", "1", "d", NUMBERS, (), ModelSettings(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "requests").write_text("in the way")
    with pytest.raises(SetupError, match=r"model m: the request log cannot be written below .*data_dir.*request_log=0"):
        Rig(tmp_path)


def test_a_disk_that_fails_is_counted_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="forebay.request_log")
    rig = Rig(tmp_path, TEXTS)
    model_folder(tmp_path, "m").rename(tmp_path / "away")
    for text in ("a", "b", "c"):
        rig.ask(text)
    rig.close()
    assert rig.counts.dropped == {"disk": 3}
    assert caplog.text.count("the request log cannot be written: No such file") == 1


def test_after_a_failure_it_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, TEXTS)
    store = rig.destination.store
    rig.folder.rename(tmp_path / "away")
    store.append(entries(rig, "lost"))
    (tmp_path / "away").rename(rig.folder)
    store.append(entries(rig, "kept"))
    assert texts_of(rig.close().read()) == ["kept"]
    assert rig.counts.dropped == {"disk": 1}


def test_what_is_gathered_is_one_call_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, TEXTS)
    calls = 0
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    rig.destination.store.append(entries(rig, *map(str, range(100))))
    assert calls == 1
    assert texts_of(rig.close().read()) == [str(number) for number in range(100)]
    assert (rig.counts.written, rig.counts.dropped) == (100, {})


def test_what_cannot_be_written_is_none_of_it_and_may_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, TEXTS)
    store = rig.destination.store
    store.append(entries(rig, "one"))
    held_bytes = store.held_bytes
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:-1]))
    store.append(entries(rig, "two", "three", "one"))
    monkeypatch.undo()
    assert store.held_bytes == held_bytes
    assert (rig.counts.written, rig.counts.dropped) == (1, {"disk": 2, "duplicate": 1})
    store.append(entries(rig, "two", "three"))
    found = rig.close()
    reading = Reading(found.folder)
    assert texts_of(list(reading)) == ["one", "two", "three"]
    assert reading.damage == Damage()
    assert rig.counts.written == 3


def test_a_disk_that_stays_full_is_not_filled_with_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, TEXTS)
    store = rig.destination.store
    store.append(entries(rig, "one"))

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for word in ("two", "three", "four"):
            store.append(entries(rig, word))
    assert len(list(rig.folder.rglob("*.rows"))) == 1
    store.append(entries(rig, "five"))
    assert texts_of(rig.close().read()) == ["one", "five"]
    assert all(path.stat().st_size for path in rig.folder.rglob("*.rows"))
    assert rig.counts.dropped == {"disk": 3}


def test_half_a_row_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, TEXTS)
    store = rig.destination.store
    store.append(entries(rig, "one"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    store.append(entries(rig, "two"))
    monkeypatch.undo()
    store.append(entries(rig, "three"))
    found = rig.close()
    reading = Reading(found.folder)
    assert texts_of(list(reading)) == ["one", "three"]
    assert reading.damage == Damage()
    assert rig.counts.dropped == {"disk": 1}
