"""Files of XGBoost, LightGBM and scikit-learn: served by their own runtimes, and as ONNX by the same converters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from forebay.models.source import LoadOptions, ModelSource, open_source
from forebay.optimize.sources.port import Original
from forebay.runtimes.ensemble import NotConvertibleError


def convert_file(path: Path, kind: str, name: str, work: Path, trust: LoadOptions) -> Original:
    """The file, read with `trust`, and its graph as `NAME.onnx` in `work`, or the reason why there is none.

    Raises `SetupError`.
    """
    source = open_source(str(path), name)
    convert: dict[str, Callable[[ModelSource, LoadOptions], bytes]] = {
        "xgboost": _xgboost,
        "lightgbm": _lightgbm,
        "sklearn": _sklearn,
    }
    file: Path | None = work / f"{source.name}.onnx"
    note = ""
    try:
        content = convert[kind](source, trust)
    except NotConvertibleError as error:
        file, note = None, f"cannot be said in ONNX: {error}"
    else:
        assert file is not None
        file.write_bytes(_as_served(content))
    return Original(source.name, kind, path, str(path), file, note, trust=trust)


def _xgboost(source: ModelSource, options: LoadOptions) -> bytes:
    from forebay.runtimes.xgboost import to_graph

    return to_graph(source)


def _lightgbm(source: ModelSource, options: LoadOptions) -> bytes:
    from forebay.runtimes.ensemble import to_onnx
    from forebay.runtimes.lightgbm_trees import read_ensemble

    return to_onnx(read_ensemble(Path(source.path).read_text(encoding="utf-8")))


def _sklearn(source: ModelSource, options: LoadOptions) -> bytes:
    from forebay.runtimes.sklearn import to_graph

    return to_graph(source, options)


def _as_served(content: bytes) -> bytes:
    """One value a row is [rows, 1] in ONNX and [rows] where the file's own runtime serves it."""
    import onnx
    from onnx import helper

    model = onnx.load_model_from_string(content)
    for output in model.graph.output:
        axes = output.type.tensor_type.shape.dim
        if len(axes) != 2 or axes[1].dim_value != 1:
            continue
        name = output.name
        for node in model.graph.node:
            node.output[:] = [f"{name}_column" if one == name else one for one in node.output]
            node.input[:] = [f"{name}_column" if one == name else one for one in node.input]
        flat = helper.make_node("Constant", [], [f"{name}_flat"], value_ints=[-1])
        model.graph.node.extend([flat, helper.make_node("Reshape", [f"{name}_column", f"{name}_flat"], [name])])
        del axes[1]
    return bytes(model.SerializeToString())
