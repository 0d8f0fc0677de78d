"""Measured costs on disk: kept, found again by machine and digest, and never a reason not to start."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from forebay.batching import LatencyModel
from forebay.core.settings import ModelSettings
from forebay.engine.costs_file import ChoiceFile, CostsFile, cpu_name
from forebay.engine.sizing import Finding, Size
from forebay.models.source import ModelSource


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    folder = tmp_path / "models"
    folder.mkdir()
    return ModelSource("m", "onnx", str(folder / "m.onnx"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def learned() -> LatencyModel:
    latency = LatencyModel(64)
    for rows in (1, 2, 4, 8, 16):
        for _ in range(3):
            latency.observe(rows, 0, 0.001 + 0.0005 * rows)
    return latency


def test_nothing_was_kept_yet(data_dir: Path, source: ModelSource) -> None:
    assert CostsFile(data_dir, source, "d1", 1).load(64) is None


def test_what_was_saved_predicts_the_same(data_dir: Path, source: ModelSource) -> None:
    latency = learned()
    CostsFile(data_dir, source, "d1", 1).save(latency)
    found = CostsFile(data_dir, source, "d1", 1).load(64)
    assert found is not None
    for rows in (1, 3, 16, 40):
        assert found.predict(rows, 0) == pytest.approx(latency.predict(rows, 0), rel=0.05)
    assert [path.name for path in (data_dir / "latency").iterdir()] == ["d1.json"]


@pytest.mark.parametrize(("digest", "threads"), [("d2", 1), ("d1", 2)])
def test_another_model_or_thread_count_has_costs_of_its_own(
    data_dir: Path, source: ModelSource, digest: str, threads: int
) -> None:
    CostsFile(data_dir, source, "d1", 1).save(learned())
    assert CostsFile(data_dir, source, digest, threads).load(64) is None


def test_classes_of_one_file_have_costs_of_their_own(data_dir: Path, tmp_path: Path) -> None:
    quick, slow = (ModelSource(name, "python", str(tmp_path / "m.py"), name) for name in ("Quick", "Slow"))
    CostsFile(data_dir, quick, "d1", 1).save(learned())
    assert CostsFile(data_dir, slow, "d1", 1).load(64) is None
    CostsFile(data_dir, slow, "d1", 1).save(learned())
    assert CostsFile(data_dir, quick, "d1", 1).load(64) is not None


def test_costs_of_another_machine_are_kept(
    data_dir: Path, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    CostsFile(data_dir, source, "d1", 1).save(learned())
    monkeypatch.setattr("forebay.engine.costs_file.cpu_name", lambda: "Another CPU")
    other = CostsFile(data_dir, source, "d1", 1)
    assert other.load(64) is None
    other.save(learned())
    monkeypatch.undo()
    assert CostsFile(data_dir, source, "d1", 1).load(64) is not None
    assert len(json.loads(other.path.read_bytes())) == 2


def test_costs_shipped_beside_the_model(data_dir: Path, source: ModelSource) -> None:
    kept = CostsFile(data_dir, source, "d1", 1)
    kept.save(learned())
    kept.path.replace(Path(source.path).with_name("latency.json"))
    assert CostsFile(data_dir, source, "d1", 1).load(64) is not None
    assert CostsFile(data_dir, source, "another model", 1).load(64) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": 1'])
def test_a_corrupt_file_is_as_good_as_none_and_is_written_anew(
    data_dir: Path, source: ModelSource, content: bytes
) -> None:
    costs = CostsFile(data_dir, source, "d1", 1)
    costs.path.parent.mkdir(parents=True)
    costs.path.write_bytes(content)
    assert costs.load(64) is None
    costs.save(learned())
    assert costs.load(64) is not None


def _no_costs(entry: dict[str, Any]) -> None:
    del entry["costs"]


def _no_cells(entry: dict[str, Any]) -> None:
    entry["costs"]["cells"] = [[1, 0]]


def _negative(entry: dict[str, Any]) -> None:
    entry["costs"]["cells"][0][2] = -1.0


def _list(entry: dict[str, Any]) -> None:
    entry["costs"] = []


@pytest.mark.parametrize("spoil", [_no_costs, _no_cells, _negative, _list])
def test_unusable_costs_are_told_and_measured_again(
    data_dir: Path, source: ModelSource, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    costs = CostsFile(data_dir, source, "d1", 1)
    costs.save(learned())
    document = json.loads(costs.path.read_bytes())
    spoil(next(iter(document.values())))
    costs.path.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING, "forebay.engine"):
        assert costs.load(64) is None
    assert "not usable" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_log_line(
    tmp_path: Path, source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    costs = CostsFile(blocker, source, "d1", 1)
    with caplog.at_level(logging.WARNING, "forebay.engine"):
        costs.save(learned())
    assert "measured costs are not kept" in caplog.text
    assert costs.load(64) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(
    data_dir: Path, source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    (data_dir / "latency").mkdir(parents=True)
    (data_dir / "latency").chmod(0o500)
    with caplog.at_level(logging.WARNING, "forebay.engine"):
        CostsFile(data_dir, source, "d1", 1).save(learned())
    assert "measured costs are not kept" in caplog.text
    (data_dir / "latency").chmod(0o700)


def test_a_folder_in_the_files_place_leaves_nothing_behind(
    data_dir: Path, source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    costs = CostsFile(data_dir, source, "d1", 1)
    costs.path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "forebay.engine"):
        costs.save(learned())
    assert "measured costs are not kept" in caplog.text
    assert list((data_dir / "latency").iterdir()) == [costs.path]


def test_the_processor_has_a_name() -> None:
    assert cpu_name()


AUTO = ModelSettings(instances="auto", threads="auto")
FOUND = Finding(Size(1, 2), {Size(2, 1): 10.0, Size(1, 2): 12.5}, "2x2 failed: no memory")


def choices(data_dir: Path, source: ModelSource, settings: ModelSettings = AUTO, cores: int = 2) -> ChoiceFile:
    return ChoiceFile(data_dir, source, "d1", settings, cores)


def test_a_choice_is_kept_beside_the_costs(data_dir: Path, source: ModelSource) -> None:
    CostsFile(data_dir, source, "d1", 2).save(learned())
    assert choices(data_dir, source).load() is None
    choices(data_dir, source).save(FOUND)
    assert choices(data_dir, source).load() == FOUND
    assert CostsFile(data_dir, source, "d1", 2).load(64) is not None
    assert [path.name for path in (data_dir / "latency").iterdir()] == ["d1.json"]


@pytest.mark.parametrize(
    ("settings", "cores"),
    [
        (AUTO, 4),
        (ModelSettings(instances="auto", threads=2), 2),
        (ModelSettings(instances=1, threads="auto"), 2),
        (ModelSettings(instances="auto", threads="auto", max_batch_rows=1), 2),
        (ModelSettings(instances="auto", threads="auto", batching="off"), 2),
    ],
)
def test_a_choice_is_good_for_what_it_was_measured_with(
    data_dir: Path, source: ModelSource, settings: ModelSettings, cores: int
) -> None:
    choices(data_dir, source).save(FOUND)
    assert choices(data_dir, source, settings, cores).load() is None


def test_a_choice_may_be_shipped_beside_the_model(data_dir: Path, source: ModelSource, tmp_path: Path) -> None:
    choices(data_dir, source).save(FOUND)
    (data_dir / "latency" / "d1.json").replace(Path(source.path).with_name("latency.json"))
    assert choices(tmp_path / "elsewhere", source).load() == FOUND


@pytest.mark.parametrize("chosen", ["2", "0x1", "x", "2x-1", 7, None, "99999x1"])
def test_a_choice_that_cannot_be_is_measured_again(
    data_dir: Path, source: ModelSource, chosen: object, caplog: pytest.LogCaptureFixture
) -> None:
    file = choices(data_dir, source)
    file.save(FOUND)
    document = json.loads(file.path.read_text())
    (entry,) = document.values()
    entry["chosen"] = chosen
    file.path.write_text(json.dumps(document))
    with caplog.at_level(logging.WARNING):
        assert file.load() is None
    assert "measured again" in caplog.text
