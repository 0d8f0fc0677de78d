"""Every kind of source becomes a model and a graph that answer alike."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from tests.contract.tabular import dump, lgb, xgb
from tests.unit.optimize.digits import digits, mlp

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.source import open_source
from forebay.optimize.sources.open import open_original
from forebay.optimize.sources.port import Original
from forebay.optimize.sources.torch_module import export_module
from forebay.runtimes.port import load_runtime


def served(original: Original, x: Array) -> list[Array]:
    return load_runtime(open_source(original.model), "cpu", 1).run({"input": x}, len(x))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "sklearn", "regressor"])
def test_a_classic_model_and_its_graph_answer_alike(tmp_path: Path, kind: str) -> None:
    x, y = digits()
    path = tmp_path / {"xgboost": "m.ubj", "lightgbm": "m.txt"}.get(kind, "m.skops")
    if kind == "xgboost":
        xgb(path, x[:300], y[:300], objective="multi:softprob", num_class=10)
    elif kind == "lightgbm":
        lgb(path, x[:300], y[:300].astype(np.float64))
    elif kind == "sklearn":
        dump(tmp_path / "m.skops", LogisticRegression(max_iter=3000).fit(x[:300], y[:300]))
    else:
        dump(tmp_path / "m.skops", Ridge().fit(x[:300], y[:300]))
    work = tmp_path / "work"
    work.mkdir()
    original = open_original(str(path), None, work)
    assert original.servable
    assert original.graph is not None
    wanted = served(original, x[300:400])
    session = ort.InferenceSession(str(original.graph))
    found = session.run(None, {"input": x[300:400]})
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(mlp(), str(path))
    original = open_original(str(path), "other", tmp_path)
    assert (original.name, original.model, original.graph) == ("other", str(path), path)


def test_a_torch_module_is_exported_with_axes_that_vary_and_compared(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with an extra")
    path = tmp_path / "net.py"
    path.write_text(
        textwrap.dedent("""\
            import torch


            class Net(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.words = torch.nn.Embedding(20, 8)
                    self.out = torch.nn.Linear(8, 3)

                def forward(self, tokens):
                    return self.out(self.words(tokens).mean(dim=1))


            def factory():
                torch.manual_seed(0)
                return Net().eval(), {"tokens": torch.zeros(2, 5, dtype=torch.int64)}, {"tokens": {1: "length"}}


            def wrong():
                return 7
            """)
    )
    original = export_module(path, "factory", "net", tmp_path)
    assert original.kind == "torch"
    signature = load_runtime(open_source(original.model), "cpu", 1).signature
    assert signature.batched
    assert signature.inputs[0].row_shape == (-1,)
    session = ort.InferenceSession(str(original.graph))
    for shape in ((1, 3), (7, 9)):
        assert session.run(None, {"tokens": np.ones(shape, np.int64)})[0].shape == (shape[0], 3)
    assert torch is not None
    for name, told in (("wrong", "it must be a function"), ("gone", "has no function 'gone'")):
        with pytest.raises(SetupError, match=told):
            export_module(path, name, "net", tmp_path)


MODULE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        {forward}


def factory():
    torch.manual_seed(0)
    return Net().eval(), {{"x": torch.ones(2, 4)}}
"""


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        ("return self.layer(x) if self.layer(x).sum() > 0 else x", r"data-dependent expression.*\(line 10\)"),
        ("return self.layer(x).view(2, 3)", r"static shape of 2 for dimension inputs\['x'\]\.shape\[0\]"),
        # torch exports the branch that the examples take, and says nothing.
        ("return self.layer(x) * (1 + (x.shape[0] > 4))", r"for x \[18, 4\] torch and its export differ"),
        # Right for the examples, which are all ones.
        (
            "return self.layer(x if torch.compiler.is_exporting() else x.clamp(max=1))",
            r"for x \[2, 4\] torch and its export differ",
        ),
    ],
)
def test_what_cannot_be_exported_is_told_by_its_cause_alone(
    tmp_path: Path, forward: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(MODULE.format(forward=forward))
    with pytest.raises(SetupError, match=told) as error:
        export_module(tmp_path / "net.py", "factory", "net", tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        ("return torch.cdist(x, self.layer.weight)", "No ONNX function found for .*cdist"),
        ("return {'x': x, 'y': self.layer(x)}", "Duplicate definition"),
    ],
)
def test_what_is_no_onnx_is_served_as_a_program_and_the_cause_told(tmp_path: Path, forward: str, told: str) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(MODULE.format(forward=forward))
    original = export_module(tmp_path / "net.py", "factory", "net", tmp_path)
    assert original.graph is None
    assert original.model.endswith(".pt2")
    assert re.search(told, original.note)
    assert len(original.note.splitlines()) == 1


TWO_INPUTS = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(20, 8)

    def forward(self, ids, mask):
        return (self.words(ids) * mask.unsqueeze(2)).sum(dim=1)


def factory():
    torch.manual_seed(0)
    ones = torch.ones(2, 5, dtype=torch.int64)
    return Net().eval(), {"ids": ones, "mask": ones}, {"ids": {1: "length"}, "mask": {1: "length"}}
"""


def test_one_tensor_for_two_inputs_of_a_torch_module_are_two_inputs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(TWO_INPUTS)
    original = export_module(tmp_path / "net.py", "factory", "net", tmp_path)
    session = ort.InferenceSession(str(original.graph))
    ids, mask = np.array([[3, 7, 1, 9], [5, 2, 4, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.manual_seed(0)
    words = torch.nn.Embedding(20, 8).weight.detach().numpy()
    wanted = (words[ids] * mask[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(session.run(None, {"ids": ids, "mask": mask})[0], wanted, rtol=1e-4, atol=1e-5)


def test_outputs_of_a_torch_module_have_the_names_of_its_mapping(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch comes with an extra")
    (tmp_path / "net.py").write_text(MODULE.format(forward="return {'logits': self.layer(x), 'sum': x.sum(dim=1)}"))
    original = export_module(tmp_path / "net.py", "factory", "net", tmp_path)
    session = ort.InferenceSession(str(original.graph))
    assert [output.name for output in session.get_outputs()] == ["logits", "sum"]


@pytest.mark.parametrize(("text", "told"), [("gone.onnx", "no file or folder"), ("here.md", "cannot be optimised")])
def test_what_is_no_source_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "here.md").write_text("")
    with pytest.raises(SetupError, match=told):
        open_original(str(tmp_path / text), None, tmp_path)
