"""The rows of a file that several models are asked, each once, and how a row of them is named to who wrote the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import Samples, distinct, read_samples


class SampleRows(NamedTuple):
    """Samples that differ. `numbers`: which one of the file each is, from 1."""

    path: Path
    samples: Samples
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.samples)

    def check_finite(self, model: str, output: str, values: Array) -> None:
        """Raises `SetupError` where a model answers NaN or infinity: nothing is told by comparing these."""
        if values.dtype.kind != "f":
            return
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if not len(bad):
            return
        row = self.samples.rows[bad[0]]
        asked = [name for name, value in row.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
        holds = f", where {', '.join(asked)} holds NaN or infinity" if asked else ""
        mend = "fill them up, or leave such samples out" if asked else "leave such samples out, or look at the model"
        raise SetupError(
            f"--samples {self.path}, sample {self.numbers[bad[0]]}{holds}: {model} answers NaN or infinity in output "
            f"{output!r}, as for {len(bad)} of {len(values)} samples; {mend}, or name another output with --output"
        )


def read_rows(path: Path, signature: Signature) -> SampleRows:
    """The samples of a file that differ. Raises `SetupError`, also where one holds NaN or infinity that the model does
    not take."""
    read = read_samples(path, signature, None)
    for number, row in enumerate(read.rows, 1):
        for spec in signature.inputs:
            if (held := _refused(spec, row[spec.name])) is not None:
                raise SetupError(
                    f"--samples {path}, sample {number}: {spec.name!r} holds {held}, which the model does not take; "
                    "fill it up, or leave such samples out"
                )
    found = distinct(read)
    numbers = {id(row): number for number, row in enumerate(read.rows, 1)}
    return SampleRows(path, found, [numbers[id(row)] for row in found.rows])


def _refused(spec: TensorSpec, value: Array) -> str | None:
    """What of NaN and infinity is in it and not taken."""
    if "nan" in spec.refuses and np.isnan(value).any():
        return "NaN"
    return "infinity" if "inf" in spec.refuses and np.isinf(value).any() else None
