"""What a user names on the command line is found: beside its file, in the current folder, or installed."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from tests.unit.optimize.digits import mlp, write_samples
from tests.unit.optimize.test_search import ANY_SPEED, QUICK, Silent

from forebay.core.errors import SetupError
from forebay.models.references import open_reference
from forebay.models.repository import read_repository
from forebay.models.source import open_source
from forebay.optimize.goals import Asked
from forebay.optimize.report import Report
from forebay.optimize.run import Order, optimize
from forebay.runtimes.port import load_runtime

RECIPE = """
class Recipe:
    name, meaning, runtime, kinds, extra, isa_bound = "{name}", "the original once more", "onnx", (), "optimize", False
    modules = ("{beside}",)

    def build(self, work):
        import {beside}

        return {beside}.copied(work)
"""
BESIDE = """
import shutil

from forebay.optimize.candidates.port import Artefact


def copied(work):
    shutil.copyfile(work.graph, work.folder / "model.onnx")
    return Artefact("model.onnx", "by {beside}")
"""


def write_recipe(folder: Path, module: str) -> None:
    """A recipe that imports another file beside it, and only when it builds."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(RECIPE.format(name=module.replace("_", "-"), beside=f"{module}_beside"))
    (folder / f"{module}_beside.py").write_text(BESIDE.format(beside=module))


IN_PYTHON = """
import shutil

from forebay.optimize.candidates.port import Artefact

MODEL = '''
from pathlib import Path

import forebay
import onnxruntime


class Other(forebay.Model):
    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}


class Net(forebay.Model):
    inputs = {"x": ("FP32", [64])}
    outputs = {"logits": ("FP32", [10])}

    def load(self, device):
        self.session = onnxruntime.InferenceSession(str(Path(__file__).with_name("graph.onnx")))

    def predict(self, x):
        return {"logits": self.session.run(None, {"x": x})[0]}
'''


class Recipe:
    name, meaning, runtime, kinds, extra, isa_bound = "in-python", "in Python", "python", (), "optimize", False
    modules = ()
    file = "model.py"

    def build(self, work):
        shutil.copyfile(work.graph, work.folder / "graph.onnx")
        (work.folder / self.file).write_text(MODEL)
        return Artefact(f"{self.file}:Net")


class Elsewhere(Recipe):
    name, file = "elsewhere", "net.py"
"""


def search(folder: Path, *plugins: str, min_speedup: float = ANY_SPEED) -> Report:
    onnx.save(mlp(), str(folder / "digits.onnx"))
    order = Order(
        source=str(folder / "digits.onnx"),
        samples=write_samples(folder / "samples.npz", 60),
        out=folder / "out",
        asked=Asked(metric="top1", max_drop=0.02, min_speedup=min_speedup, effort=QUICK),
        candidates=plugins,
    )
    return optimize(order, Silent())


def test_a_recipe_is_a_file_or_a_module_of_the_current_folder_and_imports_what_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path / "below", "own_file")
    write_recipe(tmp_path, "own_module")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    report = search(tmp_path, "below/own_file.py:Recipe", "own_module:Recipe")
    assert [(one.name, one.reason, one.note) for one in report.candidates] == [
        ("own-file", None, "by own_file"),
        ("own-module", None, "by own_module"),
    ], [one.detail for one in report.candidates]
    assert sys.path == path


def test_a_recipe_may_write_a_python_model_which_is_checked_with_all_its_files_where_it_is_served(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.py").write_text(IN_PYTHON)
    plugins = [f"{tmp_path / 'own.py'}:{name}" for name in ("Elsewhere", "Recipe")]
    report = search(tmp_path, *plugins, min_speedup=0.0)
    elsewhere, found = report.candidates
    assert (elsewhere.reason, found.reason) == ("build_failed", None), found.detail
    assert "net.py:Net: call the file model.py" in elsewhere.detail
    folder = read_repository(tmp_path / "out")["digits"]
    source = folder.source(1)
    assert load_runtime(source, "cpu", 1).signature.batched
    assert load_runtime(open_source(f"{source.path}:Net"), "cpu", 1).signature.batched, "outside a repository too"
    with (Path(source.path).parent / "graph.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SetupError, match="is not the file that"):
        load_runtime(source, "cpu", 1)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("nowhere.py:Recipe", "there is no file"),
        ("broken.py:Recipe", "ZeroDivisionError: division by zero"),
        ("ends.py:Recipe", "SystemExit: 3"),
        ("empty.py:Recipe", "has no attribute 'Recipe'"),
        ("empty.py", "it names nothing of a module"),
        ("empty:", "it names nothing of a module"),
        ("nowhere_at_all:Recipe", "No module named 'nowhere_at_all'"),
    ],
)
def test_a_recipe_that_cannot_be_opened_is_named_with_the_reason_and_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, told: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError) as raised:
        search(tmp_path, reference)
    assert f"--plugin {reference} cannot be opened" in raised.value.message
    assert told in raised.value.message
    assert "write module:Class or file.py:Class" in raised.value.message


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"value = {folder!r}\n")
    found = [open_reference(f"{tmp_path / folder / 'same.py'}:value") for folder in ("one", "other")]
    assert found == ["one", "other"]
