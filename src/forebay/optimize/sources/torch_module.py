"""A torch module of the user's own as an exported program (.pt2) and as ONNX, by `torch.export` and `torch.onnx`.

`file.py:factory` names a function without arguments that returns `(module, inputs)` or `(module, inputs, axes)`:

    def factory():
        return MyNet().eval(), {"x": torch.zeros(2, 16)}

`inputs` maps the names of `forward`'s arguments to example tensors of two or more rows. `axes` names, by input, further
axes of variable size: `{"tokens": {1: "length"}}`. The first axis of every input is the batch. Where `forward` returns
a mapping, its keys are the outputs' names.

ONNX is what most recipes start from. What cannot be said in it, or answers differently there, remains a program that
the torch runtime serves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.source import open_source
from forebay.optimize.sources.port import Original, missing
from forebay.runtimes.port import load_runtime

_TOLERANCE = 1e-3
"""Largest difference of torch's and an export's answers, in units of the largest value."""
_COPIES = 9
"""So many times the example inputs make the largest batch that is compared."""
_SHOWN = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WANTED = "it must be a function without arguments that returns (module, inputs) or (module, inputs, axes)"


Watching = Callable[[], contextlib.AbstractContextManager[None]]


def export_module(
    path: Path, factory: str, name: str, work: Path, watching: Watching = contextlib.nullcontext
) -> Original:
    """The module as `NAME.onnx` and `NAME.pt2` in `work`, those of both that answer the example inputs, and one row of
    them, as torch does. Runs the user's file, `watching` while it may read files. Raises `SetupError` where there is
    neither.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch
    except ImportError as error:
        raise missing("exporting a torch module", "torch,optimize", error) from None
    where = f"{path}:{factory}"
    with _importable(path.parent):
        with watching():
            module, inputs, axes = _call(torch, path, factory)
            module.eval()
            try:
                wanted = _wanted(torch, module, inputs, axes)
            except Exception as error:  # the user's code
                raise SetupError(f"{where}: the module cannot answer its example inputs: {_told(error)}") from None
        program, onnx_file, note = work / f"{name}.pt2", work / f"{name}.onnx", ""
        failures = []
        try:
            exported = _export(torch, module, inputs, axes)
            torch.export.save(exported, program)
            note = f"export differs from torch by {_difference(program, wanted):.2g} at most"
        except Exception as error:  # torch has many
            exported = None
            program.unlink(missing_ok=True)
            failures.append(_told(error, path))
        try:
            _to_onnx(torch, exported or module, inputs, axes, onnx_file)
            note = f"export differs from torch by {_difference(onnx_file, wanted):.2g} at most"
        except Exception as error:
            onnx_file.unlink(missing_ok=True)
            failures.append(_told(error, path))
    if len(failures) == 2:
        raise SetupError(f"{where}: torch cannot export it: {failures[-1]}")
    if not onnx_file.exists():
        return Original(name, "torch", path, str(program), None, f"it is no ONNX: {failures[0]}")
    return Original(name, "torch", path, str(onnx_file), onnx_file, "; ".join([note, *failures]))


def _call(torch: Any, path: Path, factory: str) -> tuple[Any, Mapping[str, Any], Mapping[str, Any]]:
    where = f"{path}:{factory}"
    spec = importlib.util.spec_from_file_location(f"forebay_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    try:
        spec.loader.exec_module(found)
        make = getattr(found, factory, None)
        if not callable(make):
            raise SetupError(f"{where}: {path.name} has no function {factory!r}; {_WANTED}")
        made = make()
    except SetupError:
        raise
    except (Exception, SystemExit) as error:
        raise SetupError(f"{where} failed: {_told(error)}; {_WANTED}") from error
    match made:
        case (module, Mapping() as inputs):
            axes: Mapping[str, Any] = {}
        case (module, Mapping() as inputs, Mapping() as axes):
            pass
        case _:
            raise SetupError(f"{where} returned {type(made).__name__}; {_WANTED}")
    if not isinstance(module, torch.nn.Module):
        raise SetupError(f"{where}: the module is {type(module).__name__}, not a torch.nn.Module; {_WANTED}")
    strange = [name for name, value in inputs.items() if not isinstance(value, torch.Tensor) or not value.ndim]
    if strange:
        raise SetupError(f"{where}: input {strange[0]!r} is no tensor with a first axis; give example tensors")
    unknown = [str(name) for name in axes if name not in inputs or not isinstance(axes[name], Mapping)]
    if unknown:
        raise SetupError(
            f"{where}: axes of {unknown[0]!r}; the inputs are {', '.join(inputs)}; write {{'NAME': {{1: 'length'}}}}"
        )
    rows = {int(value.shape[0]) for value in inputs.values()}
    if len(rows) != 1 or min(rows) < 2:
        raise SetupError(
            f"{where}: example inputs have {', '.join(map(str, sorted(rows))) or 'no'} rows; they must share a first "
            "axis of two or more"
        )
    # One tensor under two names would become one input of the export, which then leaves the other unread.
    return module, {name: value.detach().clone() for name, value in inputs.items()}, axes


def _export(torch: Any, module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> Any:
    with quiet():
        return torch.export.export(module, (), dict(inputs), dynamic_shapes=_dynamic(torch, inputs, axes))


def _to_onnx(torch: Any, module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any], file: Path) -> None:
    """module: or a program. Outputs are called as `forebay.runtimes.torch` calls those of a program."""
    names: dict[str, Any] = {"input_names": list(inputs)}
    if isinstance(module, torch.export.ExportedProgram):
        runtime = load_runtime(open_source(str(file.with_suffix(".pt2"))), "cpu", 1)
        names["output_names"] = [spec.name for spec in runtime.signature.outputs]
    with quiet():
        program = torch.onnx.export(
            module,
            kwargs=dict(inputs),
            dynamo=True,
            dynamic_shapes=_dynamic(torch, inputs, axes),
            external_data=False,
            verbose=False,
            **names,
        )
        program.save(str(file), external_data=False)


def _dynamic(torch: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict.fromkeys({0, *axes.get(name, {})}, torch.export.Dim.DYNAMIC) for name in inputs}


def _difference(file: Path, wanted: Sequence[tuple[Mapping[str, Any], Sequence[Array]]]) -> float:
    """Largest difference of an export's answers from torch's, in units of the largest value. Raises `ValueError` where
    that is too much.
    """
    runtime = load_runtime(open_source(str(file)), "cpu", 1)
    worst = 0.0
    for some, answers in wanted:
        feed = {name: value.detach().cpu().numpy() for name, value in some.items()}
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
        found = runtime.run(feed, len(next(iter(feed.values()))))
        if len(found) != len(answers):
            raise ValueError(f"it has {len(found)} outputs, the module {len(answers)}")
        for mine, theirs in zip(answers, found, strict=True):
            if mine.shape != theirs.shape:
                raise ValueError(
                    f"for {sizes} torch answers {list(mine.shape)} and its export {list(theirs.shape)}; name the axes "
                    "that vary in the factory's third value"
                )
            scale = float(np.abs(mine).max(initial=0.0)) or 1.0
            difference = float(np.abs(mine - theirs).max(initial=0.0)) / scale
            if not difference <= _TOLERANCE:
                raise ValueError(
                    f"for {sizes} torch and its export differ by {difference:.2g} of the largest value, so that it is "
                    "not used; does forward() choose by a size or a value?"
                )
            worst = max(worst, difference)
    return worst


def _wanted(
    torch: Any, module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any]
) -> list[tuple[Mapping[str, Any], list[Array]]]:
    """Batches and what torch answers to them: the examples, and others that torch itself can do, such as no more words
    than there are positions.
    """
    found: list[tuple[Mapping[str, Any], list[Array]]] = [(inputs, _answers(torch, module, inputs))]
    for some in (*_sizes(torch, inputs, axes), _varied(torch, inputs)):
        with contextlib.suppress(Exception), quiet():
            answers = _answers(torch, module, some)
            if all(np.isfinite(answer).all() for answer in answers):
                found.append((some, answers))
    return found


def _varied(torch: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Other values, each input's in its own way: the examples may be all ones, and say nothing of which input is which.
    Numbers are moved, of others some are set to zero, which most models take.
    """
    varied = {}
    for place, (name, value) in enumerate(inputs.items()):
        steps = torch.arange(value.numel()).reshape(value.shape)
        if value.is_floating_point():
            varied[name] = value + torch.sin((place + 1.0) * (steps + 1)).to(value.dtype)
        else:
            varied[name] = value * ((steps + 1) % (place + 2) != 0)
    return varied


def _sizes(torch: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One row, many rows, and twice as long in each further axis: `forward` may choose by a size, and an export has
    what it chose for the examples.
    """
    yield {key: value[:1] for key, value in inputs.items()}
    yield {key: torch.cat([value] * _COPIES) for key, value in inputs.items()}
    for axis in sorted({name for named in axes.values() for name in named.values()}):
        places = {(key, place) for key, named in axes.items() for place, name in named.items() if name == axis}
        yield {
            key: torch.cat([value, value], dim=found[0]) if (found := [p for k, p in places if k == key]) else value
            for key, value in inputs.items()
        }


def _answers(torch: Any, module: Any, inputs: Mapping[str, Any]) -> list[Array]:
    with torch.no_grad():
        answer = module(**inputs)
    values = [answer] if hasattr(answer, "shape") else list(answer.values() if hasattr(answer, "values") else answer)
    return [value.detach().cpu().numpy() for value in values]


def _told(error: BaseException, path: Path | None = None) -> str:
    """What went wrong at the root of it, on one line, and the line of the user's file where it names one."""
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text += f"\n{error}"
    if isinstance(error, SetupError):
        return error.message
    said = " ".join(_COLOURS.sub("", str(error)).strip().partition("\n\n")[0].split())[:_SHOWN]
    lines = re.findall(rf'File "?{re.escape(str(path))}"?(?:, line |:)(\d+)', text) if path else []
    return f"{type(error).__name__}: {said}" + (f" (line {lines[-1]})" if lines else "")


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What the user's file imports from beside it is found."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters have to say to their developers: warnings, log, prints of graphs."""
    disabled, unheard = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unheard), contextlib.redirect_stderr(unheard):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
