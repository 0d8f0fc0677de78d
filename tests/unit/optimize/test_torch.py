"""A torch module is optimised as ONNX and as its exported program; what ONNX cannot say is served by torch."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from tests.unit.optimize.digits import write_samples
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.models.source import open_source
from forebay.optimize.goals import Asked
from forebay.optimize.report import Report
from forebay.optimize.run import Order, optimize
from forebay.runtimes.port import load_runtime

pytest.importorskip("torch", reason="torch comes with an extra")

MODULES = textwrap.dedent("""\
    import torch


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(64, 10)

        def forward(self, x):
            return {"scores": self.linear(x), "sum": x.sum(dim=1)}


    class Waves(Net):
        def forward(self, x):
            return {"scores": torch.special.bessel_j0(self.linear(x))}


    def plain():
        return Net(), {"x": torch.zeros(2, 64)}


    def waves():
        return Waves(), {"x": torch.zeros(2, 64)}
""")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(MODULES)
    return path


def search(module: Path, factory: str, *only: str) -> Report:
    order = Order(
        source=f"{module}:{factory}",
        samples=write_samples(module.parent / "samples.npz", 60),
        out=module.parent / "out",
        asked=Asked(metric="top1", min_speedup=0.0, effort=QUICK),
        only=only,
    )
    return optimize(order, Silent())


def test_the_exported_program_is_a_candidate_with_the_same_names(module: Path) -> None:
    report = search(module, "plain", "torch")
    assert (report.original.runtime, report.chosen) == ("onnx", "torch")
    assert report.source.note.startswith("export differs from torch by ")
    assert [one.name for one in report.original.others] == ["sum"]
    served = load_runtime(open_source(str(module.parent / "out" / "net" / "1" / "model.pt2")), "cpu", 1)
    assert [spec.name for spec in served.signature.inputs] == ["x"]
    assert [(spec.name, spec.row_shape) for spec in served.signature.outputs] == [("scores", (10,)), ("sum", ())]


def test_what_onnx_cannot_say_is_served_as_a_program_and_the_reason_is_told(module: Path) -> None:
    report = search(module, "waves", "torch", "fused", "weights-int8")
    assert (report.original.runtime, report.chosen) == ("torch", "fp32")
    assert report.source.note.startswith("it is no ONNX: ")
    assert "bessel_j0" in report.source.note
    assert [one.reason for one in report.candidates] == ["not_applicable"] * 3
    served = load_runtime(open_source(str(module.parent / "out" / "net" / "1" / "net.pt2")), "cpu", 1)
    (scores,) = served.run({"x": np.zeros((3, 64), np.float32)}, 3)
    assert scores.shape == (3, 10)
