"""Labels of samples as the places of a model's classes, or why they say nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.optimize.samples import places_by_name


def places_of(labels: Sequence[str], names: Sequence[str], width: int) -> Array | None:
    """Place by label, int64, by the names of the model's classes or as they stand; None: they are neither."""
    places = places_by_name(names)
    # Names or places, never some of each: where names are numbers, "1" would mean both.
    if not set(labels) <= places.keys():
        places = {str(place): place for place in range(width)}
    if not set(labels) <= places.keys():
        return None
    return np.array([places[label] for label in labels], np.int64)


def not_used(labels: Sequence[str], names: Sequence[str], width: int, model: str, output: str) -> str:
    """Why labels that are no places are left out, for a person."""
    known = {*places_by_name(names), *map(str, range(width))}
    strange = next(label for label in labels if label not in known) if not set(labels) <= known else labels[0]
    named = f"are called {', '.join(names[:10])}" if names else "have no names (the setting labels = FILE gives some)"
    return (
        f"labels are not used, only agreement with {model} is measured: {strange!r} is none of the classes of "
        f"{output!r}, which are 0 to {width - 1} and {named}"
    )


def check_related(path: Path, labels: Array, classes: Array, model: str, output: str) -> None:
    """Raises `SetupError` where labels and the model's own classes have nothing to do with each other."""
    right = float(np.mean(classes == labels))
    constant = float(np.bincount(labels).max() / len(labels))
    if right <= constant:
        raise SetupError(
            f"--samples {path}: its labels tell nothing: by them {model} itself is right in {right:.2%}, and one and "
            f"the same answer to everything would be in {constant:.2%}. Give samples of all kinds and labels that are "
            f"places in {output!r}, from 0, or leave the labels out, to measure agreement with {model}"
        )
