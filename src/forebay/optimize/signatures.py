"""Signatures of original and candidate, as probes tell them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from forebay.core.errors import SetupError
from forebay.optimize.processes import CandidateError
from forebay.optimize.wire import Loaded

_FLOATS = ("FP16", "FP32", "FP64")
Told = Mapping[str, tuple[str, list[int]]]
"""Name to datatype and shape, with the batch axis, variable axes as -1."""


def compared_output(original: Loaded, wanted: str | None) -> str:
    """Name of the output that is compared: the one asked for, else the first of floats, else the first.

    Raises `SetupError` for a name that is not there.
    """
    names = list(original.outputs)
    if wanted is not None:
        if wanted not in names:
            raise SetupError(f"--output {wanted}: the model has no such output; it has {', '.join(names)}")
        return wanted
    floats = [name for name, (datatype, _) in original.outputs.items() if datatype in _FLOATS]
    return (floats or names)[0]


def check_same(original: Loaded, candidate: Loaded) -> None:
    """Raises `CandidateError` (`wrong_signature`) where a client would notice the change: another name, type or number
    of axes, or an axis that is fixed, or of another size, where the original takes or gives more.
    """
    for what, mine, theirs in (
        ("inputs", original.inputs, candidate.inputs),
        ("outputs", original.outputs, candidate.outputs),
    ):
        if theirs.keys() != mine.keys() or not all(_fits(mine[name], theirs[name]) for name in mine):
            raise CandidateError("wrong_signature", f"{what} are {_shown(theirs)}; the original's {_shown(mine)}")


def _fits(original: tuple[str, list[int]], candidate: tuple[str, list[int]]) -> bool:
    # Tools lose sizes of axes: one that is no longer told is no change of what is answered.
    same = original[0] == candidate[0] and len(original[1]) == len(candidate[1])
    return same and all(has in (had, -1) for had, has in zip(original[1], candidate[1], strict=True))


def _shown(tensors: Told) -> str:
    return ", ".join(f"{name} {datatype}{shape}" for name, (datatype, shape) in tensors.items())
