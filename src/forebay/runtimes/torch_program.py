"""A program that `torch.export.save` wrote, read as data and made into a graph of torch's own operators.

`torch.export.load` is not used. In torch 2.13 it unpickles whatever the file calls pickled, and of the example inputs
what the safe unpickler refuses, too; it evaluates symbolic shapes of the file as Python (`sympy.sympify`), compiles
guards and names of the file into Python, and calls any attribute of `torch` that the file names, `torch.os.system` for
one. Its documentation says never to load what is not trusted. Here the file's JSON and raw weights are read, and
nothing runs but operators of `torch.ops.aten` and `torch.ops.prims`; those that open files are refused. Guards on
shapes are left out: the signature has the fixed axes, the operators check the rest.

Source: the archive in torch/csrc/export/pt2_archive_constants.h, its JSON in torch/_export/serde/schema.py (major
version 8), https://github.com/pytorch/pytorch
"""

from __future__ import annotations

import json
import keyword
import math
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

SCHEMA = 8
"""Major version of the JSON that is read."""
_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    34: "uint32",
    35: "uint64",
}
_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_STRIDED = 7
_OPERATORS = ("aten", "prims")
_REFUSED = frozenset({"from_file", "save"})
"""Operators that open files."""
_SET_GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("pow", "neg", "pos", "lshift", "rshift")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_")},
    **{f"math.{name}": getattr(math, name) for name in ("trunc", "floor", "ceil")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_float", "sym_int", "sym_not", "sym_ite")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min")},
    "torch._sym_sqrt": math.sqrt,
}
"""What may be done with sizes, which are plain numbers when a program runs."""
_PLAIN = {"as_int": int, "as_bool": bool, "as_string": str}
_PLAINS = {"as_ints": int, "as_bools": bool, "as_strings": str}
_NAMED = ("as_sym_int", "as_sym_float", "as_sym_bool")

_TRUSTED = "if you trust who wrote it, a Python model (file.py:Class) can load it by torch.export.load"

Document = Mapping[str, Any]


class NotReadableError(Exception):
    """The file holds no program that is run here. The text says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output. `shape`: -1 where the axis is variable."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be called with its input tensors in order; it returns its outputs in order."""

    inputs: list[Value]
    outputs: list[Value]
    call: Callable[..., Sequence[Any]]
    writes: bool
    """Some operator writes to its argument, which may be an input."""


def read_program(path: Path, device: str) -> Program:
    """Read a .pt2 file, its weights onto `device`.

    Raises `NotReadableError`, or what the readers of zip, JSON and tensors raise where it is not as torch writes it.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        found = [name for name in names if name.count("/") == 2 and name.endswith(".json") and "/models/" in name]
        if len(found) != 1:
            raise NotReadableError(_why_not(names, len(found)))
        root, _, file = found[0].split("/")
        document = json.loads(archive.read(found[0]))
        version = document["schema_version"]["major"]
        if version != SCHEMA:
            raise NotReadableError(
                f"it is written in version {version} of torch's schema, version {SCHEMA} is read here"
            )
        weights = _Weights(archive, root, file.removesuffix(".json"), device)
        return _Builder(weights, device).program(document["graph_module"])


def _why_not(names: Sequence[str], programs: int) -> str:
    if programs:
        return f"it holds {programs} programs, not one"
    if any("/aotinductor/" in name for name in names):
        return "it holds machine code (AOTInductor), not a program"
    if "serialized_exported_program.json" in names:
        return "it was written by torch 2.7 or an earlier one; export the module again with torch 2.8 or later"
    return "it holds no program of torch.export.save"


class _Weights:
    """Parameters, buffers and constants of the file as tensors, each file read once."""

    def __init__(self, archive: zipfile.ZipFile, root: str, model: str, device: str) -> None:
        self._archive, self._device = archive, device
        self._flat: dict[str, Any] = {}
        self._entries: dict[str, tuple[str, Document]] = {}
        for folder in ("constants", "weights"):
            prefix = f"{root}/data/{folder}/"
            config = json.loads(archive.read(f"{prefix}{model}_{folder}_config.json"))["config"]
            self._entries |= {name: (prefix, entry) for name, entry in config.items()}

    def get(self, name: str) -> Any:
        """The tensor of a qualified name. Ties are kept: two names of one tensor share its memory."""
        prefix, entry = self._entries[name]
        if entry["use_pickle"]:
            raise NotReadableError(f"{name!r} is pickled in it, which could run code; {_TRUSTED}")
        meta = entry["tensor_meta"]
        path, dtype = prefix + entry["path_name"], _dtype(meta["dtype"])
        flat = self._flat.get(path)
        if flat is None:
            data = bytearray(self._archive.read(path))
            flat = torch.frombuffer(data, dtype=dtype).clone() if data else torch.empty(0, dtype=dtype)
            flat = self._flat[path] = flat.to(self._device)
        sizes, strides = ([axis["as_int"] for axis in meta[key]] for key in ("sizes", "strides"))
        return torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"])


class _Builder:
    """A program's JSON to a graph. Names in the file only look things up; the graph has names of its own."""

    def __init__(self, weights: _Weights, device: str) -> None:
        self._weights = weights
        self._device = torch.device(device)
        self._graph = fx.Graph()
        self._root: dict[str, Any] = {}
        self._nodes: dict[str, Any] = {}
        self._owned: set[str] = set()
        self._writes = False

    def program(self, module: Document) -> Program:
        """The whole."""
        graph, signature = module["graph"], module["signature"]
        inputs: list[Value] = []
        for argument, spec in zip(graph["inputs"], signature["input_specs"], strict=True):
            self._take_input(argument, spec, graph, inputs)
        self._add(graph["nodes"])
        names = [name for spec in signature["output_specs"] if (name := _output_name(spec)) is not None]
        self._graph.output(tuple(self._nodes[name] for name in names))
        outputs = [_value(name, graph, told) for name, told in zip(names, _told_names(module, names), strict=True)]
        call = fx.GraphModule(self._root, self._graph).forward
        return Program(inputs, outputs, call, self._writes)

    def _take_input(self, argument: Document, spec: Document, graph: Document, inputs: list[Value]) -> None:
        ((kind, told),) = spec.items()
        if kind == "constant_input":
            return
        if kind in ("parameter", "buffer", "tensor_constant"):
            name, target = told["arg"]["name"], f"w{len(self._root)}"
            self._root[target] = self._weights.get(told[f"{kind}_name"])
            self._nodes[name] = self._graph.get_attr(target)
            self._owned.add(name)
        elif kind == "user_input" and "as_tensor" in argument:
            name = argument["as_tensor"]["name"]
            self._nodes[name] = self._graph.placeholder(f"x{len(inputs)}")
            inputs.append(_value(name, graph, name))
        elif kind == "user_input":
            raise NotReadableError(
                f"an input is {next(iter(argument))[3:]}; export a forward() that takes only tensors"
            )
        else:
            raise NotReadableError(f"it takes a {kind}, and only tensors are read; {_TRUSTED}")

    def _add(self, nodes: Sequence[Document]) -> None:
        for node in nodes:
            target = node["target"]
            if target == "torch.ops.aten._assert_tensor_metadata.default":
                continue  # types are fixed when a program is exported; the device may be another one
            if target == _SET_GRAD:
                self._inline(node)
                continue
            call = _NUMBERS.get(target) or _operator(target)
            if isinstance(call, torch._ops.OpOverload):
                self._look_for_writes(call, node)
            args, kwargs = [], {}
            for given in node["inputs"]:
                value = self._argument(given["arg"])
                if given.get("kind") == 2:
                    kwargs[_keyword(given["name"])] = value
                else:
                    args.append(value)
            self._bind(self._graph.call_function(call, tuple(args), kwargs), node["outputs"])

    def _inline(self, node: Document) -> None:
        """A part under `torch.no_grad()`: nothing here keeps gradients anyway."""
        _, inner, *given = (argument["arg"] for argument in node["inputs"])
        graph = inner["as_graph"]["graph"]
        outer, owned = self._nodes, self._owned
        pairs = [(_tensor_name(told), value) for told, value in zip(graph["inputs"], given, strict=True)]
        self._owned = {name for name, value in pairs if _tensor_name(value) in owned}
        # Its names are its own: they may be those of others outside.
        self._nodes = {name: self._argument(value) for name, value in pairs}
        self._add(graph["nodes"])
        answers = [self._argument(answer) for answer in graph["outputs"]]
        self._nodes, self._owned = outer, owned
        if [list(output) for output in node["outputs"]] == [["as_tensors"]]:
            names = [output["name"] for output in node["outputs"][0]["as_tensors"]]
        else:
            names = [_tensor_name(output) for output in node["outputs"]]
        self._nodes.update(zip(names, answers, strict=True))

    def _look_for_writes(self, call: Any, node: Document) -> None:
        written = {
            argument.name
            for argument in call._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        }
        for given in node["inputs"]:
            argument, name = given["arg"], given["name"]
            chance = name == "dropout_p" and argument.get("as_float", 0.0) > 0.0
            if chance or (name in ("train", "training") and argument.get("as_bool")):
                raise NotReadableError(
                    f"{call} is in training mode in it; call eval() on the module before exporting it"
                )
            if name in written:
                self._writes = True
                if "as_tensor" in argument and argument["as_tensor"]["name"] in self._owned:
                    raise NotReadableError(
                        f"it writes to its own {argument['as_tensor']['name']!r}, so that an answer would depend on "
                        "those before it; call eval() on the module, or keep its state outside"
                    )

    def _argument(self, argument: Document) -> Any:
        ((kind, value),) = argument.items()
        if kind in _PLAIN:
            return _checked(value, _PLAIN[kind])
        if kind in _PLAINS:
            return [_checked(item, _PLAINS[kind]) for item in value]
        if kind == "as_tensor":
            return self._nodes[value["name"]]
        if kind == "as_tensors":
            return [self._nodes[item["name"]] for item in value]
        if kind == "as_optional_tensors":
            return [self._nodes[item["as_tensor"]["name"]] if "as_tensor" in item else None for item in value]
        if kind == "as_none":
            return None
        if kind == "as_float":
            return float(value)
        if kind == "as_floats":
            return [float(item) for item in value]
        if kind in _NAMED:
            return self._number(value)
        if kind.removesuffix("s") in _NAMED:
            return [self._number(item) for item in value]
        if kind == "as_scalar_type":
            return _dtype(value)
        if kind == "as_device":
            return self._device
        if kind == "as_memory_format":
            return getattr(torch, _MEMORY_FORMATS[value])
        if kind == "as_layout" and value == _STRIDED:
            return torch.strided
        raise NotReadableError(f"an operator takes {kind[3:]} {str(value)[:40]}, which is not read here; {_TRUSTED}")

    def _number(self, value: Document) -> Any:
        ((kind, told),) = value.items()
        return self._nodes[told] if kind == "as_name" else _checked(told, int | float | bool)

    def _bind(self, node: Any, outputs: Sequence[Document]) -> None:
        """Names for what an operator returns: one value, or one of a list or tuple each."""
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            ((kind, told),) = outputs[0].items()
            if kind in _NAMED:
                self._nodes[told["as_name"]] = node
            elif kind == "as_tensor":
                self._nodes[told["name"]] = node
            elif kind != "as_none":
                raise NotReadableError(f"an operator returns {kind[3:]}, which is not read here; {_TRUSTED}")
            return
        parts = [{"as_tensor": item} for item in outputs[0]["as_tensors"]] if len(outputs) == 1 else outputs
        for place, part in enumerate(parts):
            if "as_none" not in part:
                self._bind(self._graph.call_function(operator.getitem, (node, place)), [part])


def _operator(target: str) -> Any:
    """An operator by its full name, such as torch.ops.aten.linear.default."""
    parts = target.split(".")
    call = None
    if len(parts) == 5 and parts[:2] == ["torch", "ops"] and parts[2] in _OPERATORS and parts[3] not in _REFUSED:
        call = getattr(getattr(getattr(torch.ops, parts[2]), parts[3], None), parts[4], None)
    if not isinstance(call, torch._ops.OpOverload):
        raise NotReadableError(
            f"it calls {target[:80]!r}, which is none of the operators that are run here ({', '.join(_OPERATORS)}); "
            f"{_TRUSTED}"
        )
    return call


def _keyword(name: str) -> str:
    """It goes into the graph's code as it is."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise NotReadableError(f"an operator takes an argument called {name[:40]!r}")
    return name


def _dtype(number: int) -> Any:
    return getattr(torch, _TYPES[number])


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise NotReadableError(f"an operator takes {str(value)[:40]!r}, which is not {kind}")
    return value


def _tensor_name(argument: Document) -> str:
    ((kind, told),) = argument.items()
    return str(told["as_name"] if kind in _NAMED else told["name"])


def _output_name(spec: Document) -> str | None:
    """The tensor that an output is; None for one that callers do not see."""
    ((kind, told),) = spec.items()
    if kind == "user_input_mutation":
        return None
    if kind != "user_output":
        raise NotReadableError(f"it has a {kind}; call eval() on the module before exporting it")
    if "as_tensor" not in told["arg"]:
        raise NotReadableError(f"an output is {next(iter(told['arg']))[3:]}; return only tensors from forward()")
    return str(told["arg"]["as_tensor"]["name"])


def _told_names(module: Document, names: Sequence[str]) -> list[str]:
    """What outputs are called: by their keys where forward() returns a flat dictionary, else as in the graph."""
    spec = json.loads(module["module_call_graph"][0]["signature"]["out_spec"])[1]
    keys: Any = None
    if all(child["type"] is None for child in spec["children_spec"]) and isinstance(spec["context"], str):
        keys = json.loads(spec["context"])
    if isinstance(keys, list) and len(keys) == len(names) and all(isinstance(key, str) for key in keys):
        return [str(key) for key in keys]
    return [name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names)]


def _value(name: str, graph: Document, told: str) -> Value:
    meta = graph["tensor_values"][name]
    shape = tuple(axis.get("as_int", -1) for axis in meta["sizes"])
    return Value(told, _TYPES[meta["dtype"]], shape)
