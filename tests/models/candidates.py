"""Recipes with a planted fault each, and one without: what the gate of `forebay optimize` is for."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from forebay.models.artefact import ServedWith
from forebay.optimize.candidates.openvino import read_graph, save
from forebay.optimize.candidates.port import Artefact, Work


class Planted:
    """Changes the original's graph in `change`. The output is `logits`."""

    name = "same"
    meaning = "the original once more"
    runtime = "onnx"
    kinds: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("onnx",)
    extra = "optimize"
    isa_bound = True

    def build(self, work: Work) -> Artefact:
        assert work.graph is not None
        model = onnx.load(str(work.graph))
        for node in model.graph.node:
            node.output[:] = ["plain" if name == "logits" else name for name in node.output]
        self.change(model)
        onnx.save(model, str(work.folder / "model.onnx"))
        return Artefact("model.onnx")

    def change(self, model: Any) -> None:
        model.graph.node.append(helper.make_node("Identity", ["plain"], ["logits"]))


def constant(model: Any, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


class OtherModel(Planted):
    """Answers what another model would: its classes are those of the next number."""

    name = "other-model"

    def change(self, model: Any) -> None:
        order = constant(model, "order", np.roll(np.arange(10), 1))
        model.graph.node.append(helper.make_node("Gather", ["plain", order], ["logits"], axis=1))


class Slower(Planted):
    """Right answers, after a great many products that nobody needs."""

    name = "slower"

    def change(self, model: Any) -> None:
        wide = constant(model, "wide", np.full((10, 1500), 1e-3, np.float32))
        square = constant(model, "square", np.full((1500, 1500), 1e-3, np.float32))
        zero = constant(model, "zero", np.float32(0))
        add = [helper.make_node("MatMul", ["plain", wide], ["slow0"])]
        add += [helper.make_node("MatMul", [f"slow{n}", square], [f"slow{n + 1}"]) for n in range(6)]
        add += [
            helper.make_node("ReduceMax", ["slow6"], ["most"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["most", zero], ["nothing"]),
            helper.make_node("Add", ["plain", "nothing"], ["logits"]),
        ]
        model.graph.node.extend(add)


class NotANumber(Planted):
    """NaN where the first class is likeliest."""

    name = "nan"

    def change(self, model: Any) -> None:
        zero = constant(model, "zero", np.float32(0))
        model.graph.node.extend(
            [
                helper.make_node("ArgMax", ["plain"], ["which"], axis=1, keepdims=1),
                helper.make_node("Cast", ["which"], ["number"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", ["number", zero], ["zeros"]),
                helper.make_node("Div", ["zeros", "number"], ["bad"]),  # 0/0 for class 0
                helper.make_node("Add", ["plain", "bad"], ["logits"]),
            ]
        )


class BatchVariant(Planted):
    """A little of what the whole batch has in common, as a range that rows share brings it; alone it is right."""

    name = "batch-variant"

    def change(self, model: Any) -> None:
        little = constant(model, "little", np.float32(1e-2))
        model.graph.node.extend(
            [
                helper.make_node("ReduceMean", ["plain"], ["common"], axes=[0], keepdims=1),
                helper.make_node("Sub", ["plain", "common"], ["apart"]),
                helper.make_node("Mul", ["apart", little], ["shift"]),
                helper.make_node("Add", ["plain", "shift"], ["logits"]),
            ]
        )


class OtherSignature(Planted):
    """Another name for the output."""

    name = "other-signature"

    def change(self, model: Any) -> None:
        model.graph.node.append(helper.make_node("Identity", ["plain"], ["scores"]))
        model.graph.output[0].name = "scores"


class CrashesInBuild(Planted):
    """Its process dies while the artefact is made."""

    name = "crashes-in-build"

    def build(self, work: Work) -> Artefact:
        os.abort()


class FailsInBuild(Planted):
    """A library stumbles."""

    name = "fails-in-build"

    def build(self, work: Work) -> Artefact:
        raise ValueError("no such thing as half a layer")


class CrashesInUse(Planted):
    """An artefact that takes its process with it."""

    name = "crashes-in-use"
    runtime = "python"

    def build(self, work: Work) -> Artefact:
        (work.folder / "model.py").write_text(
            "import os\nimport forebay\n\n\nclass Dies(forebay.Model):\n"
            '    inputs = {"x": ("FP32", [64])}\n    outputs = {"logits": ("FP32", [10])}\n\n'
            "    def predict(self, x):\n        os.abort()\n"
        )
        return Artefact("model.py:Dies")


class Rounded(Planted):
    """The original in OpenVINO, with a setting: bfloat16, or float32 where the processor lacks that."""

    name = "rounded"
    runtime = "openvino"

    def build(self, work: Work) -> Artefact:
        assert work.graph is not None
        save(read_graph(work.graph), work.folder)
        return Artefact("model.xml", served_with=ServedWith(inference_precision="bf16"))


class OnADevice(Planted):
    """For a device that nobody has."""

    name = "on-a-device"

    def build(self, work: Work) -> Artefact:
        return replace(super().build(work), served_with=ServedWith(device="abacus:0"))


class Imprecise(Planted):
    """With a precision that there is not."""

    name = "imprecise"

    def build(self, work: Work) -> Artefact:
        return replace(super().build(work), served_with=ServedWith(inference_precision="fp3"))  # type: ignore[arg-type]


class NeedsMore(Planted):
    """A recipe of a library that nobody has."""

    name = "needs-more"
    modules: tuple[str, ...] = ("a_library_that_is_not_there",)

    def build(self, work: Work) -> Artefact:
        shutil.rmtree(work.folder)
        raise AssertionError("must not be asked")
