"""What ONNX cannot say of a torch module is served by torch."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest
from tests.unit.optimize.digits import write_samples
from tests.unit.optimize.test_search import QUICK, Silent

from forebay.models.source import open_source
from forebay.optimize.goals import Asked
from forebay.optimize.run import Order, optimize
from forebay.runtimes.port import load_runtime

pytest.importorskip("torch", reason="torch comes with an extra")

WAVES = textwrap.dedent("""\
    import torch


    class Waves(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(64, 10)

        def forward(self, x):
            return {"scores": torch.special.bessel_j0(self.linear(x))}


    def waves():
        return Waves(), {"x": torch.zeros(2, 64)}
""")


def test_what_onnx_cannot_say_is_served_as_a_program_and_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(WAVES)
    order = Order(
        source=f"{tmp_path / 'net.py'}:waves",
        samples=write_samples(tmp_path / "samples.npz", 60),
        out=tmp_path / "out",
        asked=Asked(metric="top1", min_speedup=0.0, effort=QUICK),
        only=("torch", "fused", "weights-int8"),
    )
    report = optimize(order, Silent())
    assert (report.original.runtime, report.chosen) == ("torch", "fp32")
    assert report.source.note.startswith("it is no ONNX: ")
    assert "bessel_j0" in report.source.note
    assert report.source.files == ()
    assert [one.reason for one in report.candidates] == ["not_applicable"] * 3
    served = load_runtime(open_source(str(tmp_path / "out" / "net" / "1" / "net.pt2")), "cpu", 1)
    (scores,) = served.run({"x": np.zeros((3, 64), np.float32)}, 3)
    assert scores.shape == (3, 10)
