"""Recipes with faults that a first look does not see: see `candidates` for the plain ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
from onnx import helper
from tests.models.candidates import Planted, constant

from forebay.optimize.candidates.port import Artefact, Work

SHORT = 10
"""Elements of a row up to which `WrongOnLong` is right."""


class NanInSomeBatches(Planted):
    """Right alone, and in batches of any other size."""

    name = "nan-in-batches-of-six"

    def change(self, model: Any) -> None:
        six, nan = constant(model, "six", np.array([6])), constant(model, "nan", np.float32(np.nan))
        zero = constant(model, "zero", np.float32(0))
        model.graph.node.extend(
            [
                helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
                helper.make_node("Equal", ["rows", six], ["at_issue"]),
                helper.make_node("Where", ["at_issue", nan, zero], ["bad"]),
                helper.make_node("Add", ["plain", "bad"], ["logits"]),
            ]
        )


class WrongOnLong(Planted):
    """Right for short rows; of longer ones the classes are those of the next number."""

    name = "wrong-on-long"

    def change(self, model: Any) -> None:
        most, order = constant(model, "most", np.array([SHORT])), constant(model, "order", np.roll(np.arange(10), 1))
        model.graph.node.extend(
            [
                helper.make_node("Shape", ["ids"], ["length"], start=1, end=2),
                helper.make_node("Greater", ["length", most], ["at_issue"]),
                helper.make_node("Gather", ["plain", order], ["moved"], axis=1),
                helper.make_node("Where", ["at_issue", "moved", "plain"], ["logits"]),
            ]
        )


class FixedLength(Planted):
    """Takes rows of one length only, which all samples happen to have."""

    name = "fixed-length"

    def change(self, model: Any) -> None:
        super().change(model)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 12


class Scaled(Planted):
    """Points where the original does, a hundred times as far."""

    name = "scaled"

    def change(self, model: Any) -> None:
        hundred = constant(model, "hundred", np.float32(100))
        model.graph.node.append(helper.make_node("Mul", ["plain", hundred], ["logits"]))


class OtherTraining(Planted):
    """Another model, which lies beside the original: as accurate, and not the one that is to be served."""

    name = "other-training"

    def build(self, work: Work) -> Artefact:
        assert work.graph is not None
        shutil.copyfile(work.graph.with_name("other.onnx"), work.folder / "model.onnx")
        return Artefact("model.onnx")


class CopyOfFile(Planted):
    """Sound: the original's own file."""

    name = "copy"

    def build(self, work: Work) -> Artefact:
        assert work.graph is not None
        shutil.copyfile(work.graph, work.folder / "model.onnx")
        return Artefact("model.onnx")


class OtherLabel(Planted):
    """Its second output is another one's."""

    name = "other-label"

    def change(self, model: Any) -> None:
        super().change(model)
        last = next(node for node in model.graph.node if node.output[0] == "label")
        last.output[0] = "true_label"
        one = constant(model, "one", np.int64(1))
        model.graph.node.append(helper.make_node("Add", ["true_label", one], ["label"]))


class OtherOrder(Planted):
    """Sound: its outputs stand in another order."""

    name = "other-order"

    def change(self, model: Any) -> None:
        super().change(model)
        outputs = list(model.graph.output)[::-1]
        del model.graph.output[:]
        model.graph.output.extend(outputs)


HEAD = """
import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

import forebay

HERE = Path(__file__).parent


class Found(forebay.Model):
    inputs = {"x": ("FP32", [64])}
    outputs = {"logits": ("FP32", [10])}

    def load(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(HERE / "plain.onnx"), options)
        self.seen = {}

    def answer(self, x):
        return self.session.run(["logits"], {"x": x})[0]
"""


class InPython(Planted):
    """The original's graph behind a class of Python, `predict` being `text`."""

    name = "in-python"
    meaning = "the original behind Python"
    runtime = "python"
    text = "return self.answer(x)"

    def build(self, work: Work) -> Artefact:
        assert work.graph is not None
        shutil.copyfile(work.graph, work.folder / "plain.onnx")
        lines = [f"        {line}" for line in self.text.strip().splitlines()]
        body = "\n".join(["", "    def predict(self, x):", *lines, ""])
        (work.folder / "model.py").write_text(self.head(work) + body)
        return Artefact("model.py:Found")

    def head(self, work: Work) -> str:
        """Everything but `predict`."""
        return HEAD


class Remembers(InPython):
    """Slow with each row that it has not seen, and quick with what it has answered before."""

    name = "remembers"
    text = """
for row in x:
    if row.tobytes() not in self.seen:
        time.sleep(0.004)
        self.seen[row.tobytes()] = self.answer(row[None])[0]
return np.stack([self.seen[row.tobytes()] for row in x])
"""


class ChangesItsMind(InPython):
    """Right in batches and the first time; who asks for the same row alone again gets another answer."""

    name = "changes-its-mind"
    text = """
answer = self.answer(x)
if len(x) == 1:
    times = self.seen[x.tobytes()] = self.seen.get(x.tobytes(), 0) + 1
    if times > 1:
        answer = np.roll(answer, 1, axis=1)
return answer
"""


class Forgets(InPython):
    """Has no answer to the last row of a batch."""

    name = "forgets-a-row"
    text = "return self.answer(x)[: max(1, len(x) - 1)]"


class WritesToItself(InPython):
    """What is served later is not what was measured."""

    name = "writes-to-itself"
    text = """
with open(__file__, "a") as file:
    file.write("#")
return self.answer(x)
"""


class TiedToItsFolder(InPython):
    """Works only where it was made."""

    name = "tied-to-its-folder"

    def head(self, work: Work) -> str:
        return HEAD.replace("Path(__file__).parent", f"Path({str(work.folder)!r})")


class Memorised(InPython):
    """Knows the answers to the calibration rows by heart, and none besides."""

    name = "memorised"
    text = """
table = getattr(self, "table", None)
if table is None:
    with np.load(HERE / "table.npz") as file:
        table = self.table = {row.tobytes(): answer for row, answer in zip(file["x"], file["answers"])}
return np.stack([table.get(row.tobytes(), np.zeros(10, np.float32)) for row in x])
"""

    def build(self, work: Work) -> Artefact:
        import onnxruntime as ort

        assert work.graph is not None
        x = np.stack([row["x"] for row in work.calibration])
        (answers,) = ort.InferenceSession(str(work.graph)).run(["logits"], {"x": x})
        np.savez(work.folder / "table.npz", x=x, answers=answers)
        return super().build(work)


class NeverEnds(Planted):
    """Builds for ever, with the help of another process."""

    name = "never-ends"

    def build(self, work: Work) -> Artefact:
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        work.progress(f"with {helper.pid}")
        time.sleep(600)
        raise AssertionError("it was to be stopped")
