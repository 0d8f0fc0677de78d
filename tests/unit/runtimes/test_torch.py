"""What is peculiar to exported programs of torch: they answer as the module does, and nothing else of a file runs."""

# torch is not type checked.
# mypy: disable-error-code="misc"

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.exported import DYNAMIC, Echo, torch_both, torch_source

from forebay.core.errors import ExecutionError, SetupError
from forebay.engine import measure
from forebay.models.kinds import AS_PT2
from forebay.models.source import ModelSource, open_source
from forebay.runtimes.torch import TorchRuntime

ROWS = {0: DYNAMIC}


def load(source: ModelSource) -> TorchRuntime:
    return TorchRuntime(open_source(source.path), "cpu", 1)


class Convolutions(torch.nn.Module):
    """In-place operators, batch statistics, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(inplace=True),
            torch.nn.MaxPool2d(2),
            torch.nn.Dropout(0.5),
            torch.nn.Flatten(),
            torch.nn.Linear(64, 3),
        )

    def forward(self, x: Any) -> Any:
        return self.net(x)


class Attention(torch.nn.Module):
    """Sizes as numbers, masks, several outputs of one operator, constants, tied weights, a part without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.out = torch.nn.Linear(8, 50, bias=False)
        self.out.weight = self.words.weight
        self.register_buffer("scale", torch.tensor([0.5, 2.0]), persistent=False)

    def forward(self, input_ids: Any, mask: Any) -> Any:
        hidden = self.words(input_ids).unsqueeze(1)
        keep = mask[:, None, None, :].to(torch.bool)
        hidden = torch.nn.functional.scaled_dot_product_attention(hidden, hidden, hidden, attn_mask=keep).squeeze(1)
        with torch.no_grad():
            add = hidden * self.scale[1]
            places = torch.arange(input_ids.shape[1] * 2 // 2, device=input_ids.device)
        best, where = (self.out(hidden) + places[None, :, None]).max(dim=2)
        first, second = (hidden + add).split([3, 5], dim=2)
        least = torch.full((input_ids.shape[0], input_ids.shape[1]), float("-inf"), dtype=torch.float32)
        return {"best": best, "where": where, "first": first, "second": second.mean(1), "least": least}


def random_images() -> tuple[Any, ...]:
    return (torch.rand(3, 1, 8, 8),)


def random_words() -> tuple[Any, ...]:
    return torch.randint(0, 50, (3, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, of its decompositions
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    ("module", "inputs", "axes"),
    [
        (Convolutions, random_images, (ROWS,)),
        (Attention, random_words, ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC})),
    ],
)
def test_it_answers_as_the_module_does(
    tmp_path: Path, module: Any, inputs: Callable[[], tuple[Any, ...]], axes: tuple[Any, ...], decomposed: bool
) -> None:
    torch.manual_seed(0)
    made, given = module().eval(), inputs()
    program = torch.export.export(made, given, dynamic_shapes=axes)
    if decomposed:
        program = program.run_decompositions()
    torch.export.save(program, tmp_path / "m.pt2")
    runtime = load(open_source(str(tmp_path / "m.pt2")))
    assert runtime.signature.batched
    assert measure.check_batchable(runtime, measure.Samples(runtime)) == (True, "")
    names = [spec.name for spec in runtime.signature.inputs]
    for count in (3, 1):
        told = [tensor[:count] for tensor in given]
        with torch.no_grad():
            wanted = made(*told)
        wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
        got = runtime.run({name: tensor.numpy() for name, tensor in zip(names, told, strict=True)}, count)
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_names_are_those_of_arguments_and_of_keys(tmp_path: Path) -> None:
    class Tuple(torch.nn.Module):
        def forward(self, left: Any, right: Any) -> Any:
            return left.add(right), left, left

    runtime = load(torch_source(tmp_path / "m.pt2", Tuple(), (torch.ones(2, 3), torch.zeros(2, 3)), ROWS, ROWS))
    assert [spec.name for spec in runtime.signature.inputs] == ["left", "right"]
    assert [spec.name for spec in runtime.signature.outputs] == ["add", "left_1", "left_2"]
    assert [spec.name for spec in load(torch_both(tmp_path / "n.pt2")).signature.outputs] == ["sum", "difference"]


def test_names_inside_a_part_without_gradients_are_its_own(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            add = x + 1
            with torch.no_grad():
                inner = x + 10
            return {"y": add * inner, "x": x}

    source = torch_source(tmp_path / "m.pt2", Nested(), (torch.ones(2, 3),), ROWS)

    def clash(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        part = next(node for node in nodes if node["target"].endswith("wrap_with_set_grad_enabled"))
        inner = json.dumps(part["inputs"][1]).replace('"add_1"', '"add"')
        part["inputs"][1] = json.loads(inner)

    altered(Path(source.path), clash)
    x = np.array([[1.0, 2.0, 3.0]], "<f4")
    np.testing.assert_array_equal(load(source).run({"x": x}, 1)[0], (x + 1) * (x + 10))


def test_a_fixed_leading_axis_does_not_batch(tmp_path: Path) -> None:
    signature = load(torch_source(tmp_path / "m.pt2", Echo(), (torch.ones(2, 3),))).signature
    assert (signature.batched, signature.inputs[0].row_shape) == (False, (2, 3))


def test_arguments_that_are_no_tensors_are_those_of_the_export(tmp_path: Path) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x: Any, by: float, flag: bool = True) -> Any:
            return x * by if flag else x

    program = torch.export.export(Scaled(), (torch.ones(2, 3), 3.0), dynamic_shapes={"x": ROWS, "by": None})
    torch.export.save(program, tmp_path / "m.pt2")
    runtime = TorchRuntime(open_source(str(tmp_path / "m.pt2")), "cpu", 1)
    assert [spec.name for spec in runtime.signature.inputs] == ["x"]
    assert runtime.run({"x": np.ones((1, 3), "<f4")}, 1)[0].tolist() == [[3.0, 3.0, 3.0]]


def test_a_module_that_writes_to_its_input_leaves_the_callers_as_it_was(tmp_path: Path) -> None:
    class Adds(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            x += 1
            return {"y": x * 2}

    runtime = load(torch_source(tmp_path / "m.pt2", Adds(), (torch.ones(2, 3),), ROWS))
    x = np.ones((2, 3), "<f4")
    for _ in range(2):
        assert runtime.run({"x": x}, 2)[0].tolist() == [[4.0] * 3] * 2
    assert x.tolist() == [[1.0] * 3] * 2


class Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.seen += 1
        return x * self.seen


class DropsInside(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = torch.nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Any) -> Any:
        row = torch.nn.functional.pad(x, (0, 1)).unsqueeze(1)
        return self.attend(row, row, row, need_weights=False)[0].squeeze(1)


class Drops(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.drop(x)


class Sizes(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x, x.shape[0]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counts, r"it writes to its own 'b_seen', so that an answer would depend on those before it; call eval\(\)"),
        (Drops, r"aten\.dropout\.default is in training mode in it; call eval\(\) on the module"),
        (DropsInside, r"attention\S* is in training mode in it; call eval\(\) on the module"),
        (Sizes, r"an output is sym_int; return only tensors from forward\(\)"),
    ],
)
def test_what_cannot_be_answered_steadily_is_refused_with_the_mend(tmp_path: Path, module: Any, message: str) -> None:
    source = torch_source(tmp_path / "m.pt2", module(), (torch.ones(2, 3),), ROWS)
    with pytest.raises(SetupError, match=message) as caught:
        load(source)
    assert caught.value.code == "model_load_error"
    assert source.path in caught.value.message


def test_a_type_that_the_protocol_lacks_is_named(tmp_path: Path) -> None:
    source = torch_source(tmp_path / "m.pt2", Echo(), (torch.ones(2, 3, dtype=torch.bfloat16),), ROWS)
    with pytest.raises(
        SetupError, match=r"'x' is bfloat16, which the protocol cannot carry; convert it in forward\(\)"
    ):
        load(source)


def test_weights_in_bfloat16_are_read(tmp_path: Path) -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([1.5, -2.0, 0.25], dtype=torch.bfloat16))

        def forward(self, x: Any) -> Any:
            return (x.to(torch.bfloat16) * self.weight).float()

    runtime = load(torch_source(tmp_path / "m.pt2", Half(), (torch.ones(2, 3),), ROWS))
    assert runtime.run({"x": np.full((1, 3), 2.0, "<f4")}, 1)[0].tolist() == [[3.0, -4.0, 0.5]]


# -- files that are not what torch wrote ------------------------------------------------------------------------------


def rewritten(path: Path, contents: dict[str, bytes]) -> None:
    """Replace or add members; names are those below the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).split("/")[0]
    members |= {f"{root}/{name}": content for name, content in contents.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def member(path: Path, suffix: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(suffix)))


def altered(path: Path, change: Callable[[Any], None]) -> None:
    """Change the program's JSON."""
    document = json.loads(member(path, "models/model.json"))
    change(document)
    rewritten(path, {"models/model.json": json.dumps(document).encode()})


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


@pytest.fixture
def linear(tmp_path: Path) -> ModelSource:
    return torch_source(tmp_path / "m.pt2", Linear(), (torch.ones(2, 3),), ROWS)


class Bomb:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_in_the_file_are_not_loaded(tmp_path: Path, linear: ModelSource) -> None:
    mark = tmp_path / "ran"
    rewritten(Path(linear.path), {"data/sample_inputs/model.pt": pickle.dumps(Bomb(mark))})
    assert load(linear).run({"x": np.ones((1, 3), "<f4")}, 1)[0].shape == (1, 2)
    config = json.loads(member(Path(linear.path), "model_weights_config.json"))
    config["config"]["layer.bias"]["use_pickle"] = True
    bomb = {"data/weights/weight_1": pickle.dumps(Bomb(mark))}
    rewritten(Path(linear.path), {"data/weights/model_weights_config.json": json.dumps(config).encode(), **bomb})
    with pytest.raises(
        SetupError, match=r"'layer.bias' is pickled in it, which could run code; if you trust who wrote"
    ):
        load(linear)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.linear.__class__",
        "torch.ops.profiler._record_function_enter.default",
        "_operator.call",
        "math.__loader__",
        "builtins.eval",
    ],
)
def test_only_operators_on_tensors_are_called(linear: ModelSource, target: str) -> None:
    def change(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][-1]["target"] = target

    altered(Path(linear.path), change)
    with pytest.raises(SetupError, match=re.escape(f"it calls {target!r}, which is none of the operators")):
        load(linear)


def test_shapes_guards_and_names_are_not_run_as_code(tmp_path: Path, linear: ModelSource) -> None:
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def change(document: Any) -> None:
        document["guards_code"] = [code]
        text = json.dumps(document["graph_module"]).replace('"x"', json.dumps(f"x=({code})"))
        document["graph_module"] = json.loads(text)
        graph = document["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            for axis in value["sizes"]:
                if "as_expr" in axis:
                    axis["as_expr"]["expr_str"] = code

    altered(Path(linear.path), change)
    runtime = load(linear)
    (name,) = (spec.name for spec in runtime.signature.inputs)
    assert runtime.run({name: np.ones((1, 3), "<f4")}, 1)[0].shape == (1, 2)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["x=print(1)", "lambda", "a b"])
def test_names_of_arguments_are_names(linear: ModelSource, name: str) -> None:
    def change(document: Any) -> None:
        argument = document["graph_module"]["graph"]["nodes"][-1]["inputs"][0]
        argument["name"], argument["kind"] = name, 2

    altered(Path(linear.path), change)
    with pytest.raises(SetupError, match=re.escape(f"an operator takes an argument called {name!r}")):
        load(linear)


def test_text_in_a_file_stays_text(tmp_path: Path) -> None:
    class Sums(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.einsum("ij,ij->i", x, x)

    source = torch_source(tmp_path / "m.pt2", Sums(), (torch.ones(2, 3),), ROWS)
    mark = tmp_path / "ran"

    def change(document: Any) -> None:
        text = f"'+__import__('pathlib').Path({str(mark)!r}).touch()+'\n\""
        document["graph_module"]["graph"]["nodes"][-1]["inputs"][0]["arg"] = {"as_string": text}

    altered(Path(source.path), change)
    with pytest.raises(ExecutionError):
        load(source).run({"x": np.ones((1, 3), "<f4")}, 1)
    assert not mark.exists()


def test_weights_beyond_their_file_and_numbers_that_are_none_stop_the_start(linear: ModelSource) -> None:
    rewritten(Path(linear.path), {"data/weights/weight_0": b"\0" * 8})
    with pytest.raises(SetupError, match=r"m\.pt2 is no program of torch\.export\.save: RuntimeError: .*out of bounds"):
        load(linear)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["version", "serialized_exported_program.json"],
            r"written by torch 2\.7 or an earlier one; export the module",
        ),
        (["m/data/aotinductor/model/a.so"], "it holds machine code"),
        (["m/models/a.json", "m/models/b.json"], "it holds 2 programs, not one"),
        (["m/code/x.py"], r"it holds no program of torch\.export\.save"),
    ],
)
def test_other_archives_are_told_apart(tmp_path: Path, names: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    with pytest.raises(SetupError, match=message):
        load(ModelSource("m", "torch", str(tmp_path / "m.pt2")))


def test_a_later_schema_is_refused(linear: ModelSource) -> None:
    def change(document: Any) -> None:
        document["schema_version"]["major"] = 9

    altered(Path(linear.path), change)
    with pytest.raises(SetupError, match="it is written in version 9 of torch's schema, version 8 is read here"):
        load(linear)


def test_the_line_that_exports_writes_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(AS_PT2, {"torch": torch, "module": Linear(), "x": torch.ones(2, 3)})
    assert load(open_source("model.pt2")).signature.batched


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.torchscript"])
def test_torchscript_and_state_dictionaries_are_told_how_to_be_exported(tmp_path: Path, name: str) -> None:
    torch.save(Linear().state_dict(), tmp_path / name)
    with pytest.raises(SetupError, match=r"export the module in Python: torch\.export\.save\(torch\.export\.export\("):
        open_source(str(tmp_path / name))


# -- the process ------------------------------------------------------------------------------------------------------


def test_threads_are_those_asked_for(linear: ModelSource) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            TorchRuntime(linear, "cpu", threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there(linear: ModelSource) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SetupError, match=r"device 'cuda:0' is not usable; this torch \(.*\) has cpu only"):
        TorchRuntime(linear, "cuda:0", 1)


def test_memory_that_ran_out_has_its_own_code(tmp_path: Path) -> None:
    class Outer(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.new_ones(1 << 24, 1 << 22) * x.sum()

    runtime = load(torch_source(tmp_path / "m.pt2", Outer(), (torch.ones(2),)))
    with pytest.raises(ExecutionError) as caught:
        runtime.run({"x": np.ones(2, "<f4")}, 1)
    assert caught.value.code == "out_of_memory"


def test_a_view_of_an_input_is_an_answer_of_its_own(tmp_path: Path) -> None:
    class Turned(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return {"y": x.transpose(1, 2)[:, 1:]}

    runtime = load(torch_source(tmp_path / "m.pt2", Turned(), (torch.ones(2, 3, 4),), ROWS))
    x = np.arange(12, dtype="<f4").reshape(1, 3, 4).copy()
    (answer,) = runtime.run({"x": x}, 1)
    wanted = x.transpose(0, 2, 1)[:, 1:].copy()
    x[:] = -1
    np.testing.assert_array_equal(answer, wanted)
