"""A torch module of the user's own to ONNX, by `torch.onnx.export(dynamo=True)`.

`file.py:factory` names a function without arguments that returns `(module, inputs)` or `(module, inputs, axes)`:

    def factory():
        return MyNet().eval(), {"x": torch.zeros(2, 16)}

`inputs` maps the names of `forward`'s arguments to example tensors of two or more rows. `axes` names, by input, further
axes of variable size: `{"tokens": {1: "length"}}`. The first axis of every input is the batch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.optimize.sources.port import Original, missing

_TOLERANCE = 1e-3
"""Largest difference of torch's and the export's answers, in units of the largest value."""


def export_module(path: Path, factory: str, name: str | None, work: Path) -> Original:
    """The module as `NAME.onnx` in `work`, checked against torch on the example inputs and on one row of them.

    Runs the user's file. Raises `SetupError`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise missing("exporting a torch module", "torch,optimize", error) from None
    module, inputs, axes = _call(path, factory)
    name = name or path.stem
    file = work / f"{name}.onnx"
    module.eval()
    shapes = {key: {0: "batch", **dict(axes.get(key, {}))} for key in inputs}
    try:
        dynamic = {key: dict.fromkeys(found, torch.export.Dim.DYNAMIC) for key, found in shapes.items()}
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter, to its developers
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(inputs),
                external_data=False,
                verbose=False,
            )
            program.save(str(file), external_data=False)
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        raise SetupError(
            f"{path}:{factory}: torch cannot export it: {type(error).__name__}: {first[0][:300]}"
        ) from None
    worst = _compare(torch, module, inputs, file)
    return Original(name, "torch", path, str(file), file, f"export differs from torch by {worst:.2g} at most")


def _call(path: Path, factory: str) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    spec = importlib.util.spec_from_file_location(f"forebay_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    sys.path.insert(0, str(path.parent))
    wanted = "a function without arguments that returns (module, inputs) or (module, inputs, axes)"
    try:
        spec.loader.exec_module(found)
        made = getattr(found, factory)()
    except AttributeError as error:
        raise SetupError(f"{path}:{factory}: {error}; it must be {wanted}") from None
    except (Exception, SystemExit) as error:
        raise SetupError(f"{path}:{factory} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    match made:
        case (module, Mapping() as inputs):
            axes: Mapping[str, Any] = {}
        case (module, Mapping() as inputs, Mapping() as axes):
            pass
        case _:
            raise SetupError(f"{path}:{factory} returned {type(made).__name__}; it must be {wanted}")
    rows = {int(value.shape[0]) for value in inputs.values()}
    if len(rows) != 1 or rows.pop() < 2:
        raise SetupError(f"{path}:{factory}: example inputs must share a first axis of two rows or more")
    return module, inputs, axes


def _compare(torch: Any, module: Any, inputs: Mapping[str, Any], file: Path) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows in (slice(None), slice(0, 1)):
        some = {key: value[rows] for key, value in inputs.items()}
        with torch.no_grad():
            answer = module(**some)
        wanted = (
            [answer] if hasattr(answer, "shape") else list(answer.values() if hasattr(answer, "values") else answer)
        )
        feed = {key: value.detach().cpu().numpy() for key, value in some.items()}
        for torch_value, found in zip(wanted, session.run(None, feed), strict=False):
            value = torch_value.detach().cpu().numpy()
            if value.shape != found.shape:
                raise SetupError(
                    f"{file.stem}: torch answers {list(value.shape)} and its export {list(found.shape)} for one batch; "
                    "name the axes that vary in the factory's third value"
                )
            scale = float(np.abs(value).max(initial=0.0)) or 1.0
            worst = max(worst, float(np.abs(value - found).max(initial=0.0)) / scale)
    if not worst <= _TOLERANCE:
        raise SetupError(
            f"{file.stem}: torch and its export differ by {worst:.2g} of the largest value; it is not used"
        )
    return worst
