"""A torch module of the user's own to ONNX, by `torch.onnx.export(dynamo=True)`.

`file.py:factory` names a function without arguments that returns `(module, inputs)` or `(module, inputs, axes)`:

    def factory():
        return MyNet().eval(), {"x": torch.zeros(2, 16)}

`inputs` maps the names of `forward`'s arguments to example tensors of two or more rows. `axes` names, by input, further
axes of variable size: `{"tokens": {1: "length"}}`. The first axis of every input is the batch. Outputs have the
names of the keys where `forward` returns a mapping.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.optimize.sources.port import Original, missing

_TOLERANCE = 1e-3
"""Largest difference of torch's and the export's answers, in units of the largest value."""
_COPIES = 9
"""So many times the example inputs make the largest batch that is compared."""
_SHOWN = 300


def export_module(path: Path, factory: str, name: str | None, work: Path) -> Original:
    """The module as `NAME.onnx` in `work`, checked against torch on the example inputs and on fewer and more of them.

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
    dynamic = {key: dict.fromkeys(found, torch.export.Dim.DYNAMIC) for key, found in shapes.items()}
    try:
        with _quiet(), torch.no_grad():
            answer = module(**inputs)
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(inputs),
                output_names=list(answer) if isinstance(answer, Mapping) else None,
                external_data=False,
                verbose=False,
            )
            program.save(str(file), external_data=False)
    except Exception as error:
        raise SetupError(f"{path}:{factory}: torch cannot export it: {_cause(error, path)}") from None
    worst = _compare(torch, module, inputs, axes, file)
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the exporter tells its developers: warnings, log, prints of graphs."""
    disabled, unheard = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unheard), contextlib.redirect_stderr(unheard):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _cause(error: BaseException, path: Path) -> str:
    """The innermost error, which is the one that says something, and the line of the user's file where it names one."""
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text += f"\n{error}"
    said = " ".join(str(error).strip().partition("\n\n")[0].split())
    lines = re.findall(rf'File "?{re.escape(str(path))}"?(?:, line |:)(\d+)', text)
    return f"{type(error).__name__}: {said[:_SHOWN]}" + (f" (line {lines[-1]})" if lines else "")


def _compare(torch: Any, module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any], file: Path) -> float:
    import onnxruntime as ort

    worst = 0.0
    try:
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for some in _sizes(torch, inputs, axes):
            worst = max(worst, _difference(torch, module, some, session, file.stem))
    except SetupError:
        raise
    except Exception as error:  # onnxruntime's own types say nothing
        raise SetupError(f"{file.stem}: ONNX Runtime cannot run the export: {_cause(error, file)}") from None
    return worst


def _sizes(torch: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The example inputs, one row, many rows, and twice as long in each further axis: `forward` may choose by a size,
    and the export has what it chose for the examples.
    """
    yield inputs
    yield {key: value[:1] for key, value in inputs.items()}
    yield {key: torch.cat([value] * _COPIES) for key, value in inputs.items()}
    for axis in sorted({name for named in axes.values() for name in named.values()}):
        places = {(key, place) for key, named in axes.items() for place, name in named.items() if name == axis}
        yield {
            key: torch.cat([value, value], dim=found[0]) if (found := [p for k, p in places if k == key]) else value
            for key, value in inputs.items()
        }


def _difference(torch: Any, module: Any, some: Mapping[str, Any], session: Any, name: str) -> float:
    """Of one batch, as a share of the largest value. Raises `SetupError` where it is too large. Of a size that torch
    itself cannot do: 0.
    """
    sizes = ", ".join(f"{key} {list(value.shape)}" for key, value in some.items())
    try:
        with torch.no_grad(), _quiet():
            answer = module(**some)
    except Exception:  # such as more words than there are positions
        return 0.0
    wanted = [answer] if hasattr(answer, "shape") else list(answer.values() if hasattr(answer, "values") else answer)
    feed = {key: value.detach().cpu().numpy() for key, value in some.items()}
    worst = 0.0
    for torch_value, found in zip(wanted, session.run(None, feed), strict=False):
        value = torch_value.detach().cpu().numpy()
        if value.shape != found.shape:
            raise SetupError(
                f"{name}: for {sizes} torch answers {list(value.shape)} and its export {list(found.shape)}; name the "
                "axes that vary in the factory's third value"
            )
        scale = float(np.abs(value).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(value - found).max(initial=0.0)) / scale)
    if not worst <= _TOLERANCE:
        raise SetupError(
            f"{name}: for {sizes} torch and its export differ by {worst:.2g} of the largest value, so that it is not "
            "used; does forward() choose by a size or a value?"
        )
    return worst
