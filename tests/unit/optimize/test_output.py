"""What a search leaves behind: the form that is served, others to choose from, and nothing that is not its own."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from tests.unit.optimize.digits import mlp
from tests.unit.optimize.test_gate import measured
from tests.unit.optimize.test_report import report as some_report

from forebay.core.errors import SetupError
from forebay.models.artefact import origin_digest, read_note
from forebay.models.source import digest_of, open_source
from forebay.optimize.output import Form, check_target, choose, forms_in, report_in, write
from forebay.optimize.report import Report, SourceReport
from forebay.runtimes.port import load_runtime


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with settings of its own, and a file that they name."""
    path = tmp_path / "net.onnx"
    onnx.save(mlp(), str(path))
    path.with_suffix(".toml").write_text('labels = "names.txt"\ninstances = 1\n')
    (tmp_path / "names.txt").write_text("zero\n")
    return path


def form(folder: Path, source: Path, name: str) -> Form:
    files = folder / f"made-{name}"
    files.mkdir(exist_ok=True)
    (files / "model.onnx").write_bytes(source.read_bytes())
    digest = digest_of(open_source(str(files / "model.onnx")))
    return Form(measured(name, model="model.onnx", model_sha256=digest), files, isa_bound=False)


def report_of(source: Path, *forms: Form) -> Report:
    told = SourceReport(name="net", path=str(source), kind="onnx", sha256=origin_digest(source))
    reports = [one.report for one in forms]
    changes: dict[str, Any] = {"candidates": reports, "chosen": reports[0].name if reports else None}
    return msgspec.structs.replace(some_report(), source=told, **changes)


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_first_form_is_served_and_the_others_lie_aside_with_what_their_settings_name(
    tmp_path: Path, source: Path
) -> None:
    forms = [form(tmp_path, source, name) for name in ("quick", "small")]
    out = tmp_path / "out"
    write(report_of(source, *forms), out, forms)
    each = ("model.toml", "names.txt", "1/model.onnx", "1/artefact.json")
    assert files_in(out) == {
        *("report.json", "report.html"),
        *(f"net/{name}" for name in each),
        *(f"_artefacts/small/{name}" for name in each),
    }
    assert 'labels = "names.txt"' in (out / "net" / "model.toml").read_text()
    for model, name in ((out / "net", "quick"), (out / "_artefacts" / "small", "small")):
        note = read_note(model / "1")
        assert note is not None
        assert note.candidate == name
        assert load_runtime(open_source(str(model / "1" / "model.onnx")), "cpu", 1).signature.batched

    write(report_of(source, forms[1]), out, forms[1:])
    assert files_in(out) == {"report.json", "report.html", *(f"net/{name}" for name in each)}
    write(report_of(source), out, [])
    assert files_in(out) == {"report.json", "report.html"}


def test_another_form_takes_the_place_of_the_one_that_is_served(tmp_path: Path, source: Path) -> None:
    forms = [form(tmp_path, source, name) for name in ("quick", "small", "fp32")]
    out = tmp_path / "out"
    write(report_of(source, *forms), out, forms)
    report = report_in(out)
    assert report is not None
    assert list(forms_in(out, report)) == ["quick", "fp32", "small"]
    for name in ("small", "small", "quick", "fp32"):
        assert choose(out, report, name) == out / "net"
        now = forms_in(out, report)
        assert now[name] == out / "net"
        assert set(now) == {"quick", "small", "fp32"}
        assert {path.name for key, path in now.items() if key != name} == set(now) - {name}
    check_target(out, "net")


def test_what_an_interrupted_search_left_stands_in_nobodys_way(tmp_path: Path, source: Path) -> None:
    forms = [form(tmp_path, source, "quick")]
    out = tmp_path / "out"
    (out / ".staged" / "net" / "1").mkdir(parents=True)
    (out / ".staged.report.json").write_bytes(b"{")
    check_target(out, "net")
    write(report_of(source, *forms), out, forms)
    assert sorted(entry.name for entry in out.iterdir()) == ["net", "report.html", "report.json"]
    (out / "net").rename(out / ".replaced")
    check_target(out, "net")
    write(report_of(source, *forms), out, forms)
    assert sorted(entry.name for entry in out.iterdir()) == ["net", "report.html", "report.json"]


def test_where_there_is_no_room_what_was_there_stays_as_it_was(tmp_path: Path, source: Path) -> None:
    forms = [form(tmp_path, source, name) for name in ("quick", "small")]
    out = tmp_path / "out"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def finds_no_room(where: object, name: str, forms: list[Form]) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(where, name, full)
            with pytest.raises(SetupError, match=r"No space left.*make room"):
                write(report_of(source, *forms), out, forms)

    finds_no_room(shutil, "copytree", forms)
    check_target(out, "net")
    write(report_of(source, *forms), out, forms)
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    for where, name in ((shutil, "copytree"), (Path, "write_bytes"), (Path, "write_text")):
        finds_no_room(where, name, forms[1:])
        assert {name: (out / name).read_bytes() for name in files_in(out)} == before


def test_wherever_a_search_ends_no_model_is_there_without_a_report(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = [form(tmp_path, source, "quick")]
    out = tmp_path / "out"
    rename = Path.rename

    def seen(path: Path, target: Path) -> Path:
        assert report_in(out) == report_of(source, *forms)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", seen)
    write(report_of(source, *forms), out, forms)
    assert (out / "net" / "1" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("strange", "told"),
    [
        ("thesis.tex", "thesis.tex"),
        ("net/2/model.onnx", "net/2"),
        ("net/thesis.tex", "net/thesis.tex"),
        ("_artefacts/mine/1/model.onnx", "_artefacts/mine/1"),
    ],
)
def test_what_no_search_has_written_is_never_replaced(tmp_path: Path, source: Path, strange: str, told: str) -> None:
    forms = [form(tmp_path, source, name) for name in ("quick", "small")]
    out = tmp_path / "out"
    write(report_of(source, *forms), out, forms)
    (out / "net" / "tune.json").write_text("{}")
    check_target(out, "net")
    (out / strange).parent.mkdir(parents=True, exist_ok=True)
    (out / strange).write_text("years of work")
    with pytest.raises(SetupError, match=told):
        check_target(out, "net")
    with pytest.raises(SetupError, match="holds"):
        check_target(out, "other")
