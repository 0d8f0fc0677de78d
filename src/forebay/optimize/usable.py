"""Whether the original can be measured with the samples, those that recipes calibrate by included. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize.agreement import finite
from forebay.optimize.samples import Row, Samples

_ODD = (("nan", np.isnan, "NaN"), ("inf", np.isinf, "infinity"))


def check_taken(parts: Sequence[Samples], refuses: Mapping[str, Sequence[str]]) -> None:
    """Raises `SetupError` for a sample with a value that the original takes nowhere. refuses: see `TensorSpec`, by
    input.
    """
    for samples in parts:
        for number, row in zip(samples.numbers, samples.rows, strict=True):
            for name, refused in refuses.items():
                if found := [called for value, is_it, called in _ODD if value in refused and is_it(row[name]).any()]:
                    raise SetupError(
                        f"--samples, sample {number}: {name!r} holds {found[0]}, which this model does not take; leave "
                        "the sample out, or fill in what it lacks"
                    )


def check_answers(parts: Sequence[tuple[Samples, Sequence[Array]]], output: str, mend: str) -> None:
    """Raises `SetupError` where the original itself answers NaN or infinity. Each part with an output of its samples,
    in order. mend: what may be done but to mend or leave out samples.
    """
    wrong = sorted(
        (number, _odd_input(row))
        for samples, answers in parts
        for number, row, answer in zip(samples.numbers, samples.rows, answers, strict=True)
        if not finite([answer])
    )
    if wrong:
        number, why = wrong[0]
        more = f", and to {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise SetupError(
            f"the original itself answers NaN or infinity in {output!r} to sample {number} of --samples{why}{more}; "
            f"there is nothing to keep. Mend or leave out such samples, or {mend}"
        )


def _odd_input(row: Row) -> str:
    """What of a sample's own may be why."""
    for name, value in row.items():
        if value.dtype.kind == "f":
            for _, is_it, called in _ODD:
                if is_it(value).any():
                    return f" (whose {name!r} holds {called})"
    return ""
