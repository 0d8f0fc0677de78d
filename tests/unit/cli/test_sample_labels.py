"""Labels of samples: places, names, neither, and those of another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forebay.cli.sample_labels import check_related, not_used, places_of
from forebay.core.errors import SetupError


def test_labels_are_names_or_places_and_never_some_of_each() -> None:
    names = ("spam", "1", "ham")
    assert np.array_equal(places_of(["ham", "1", "spam"], names, 3), [2, 1, 0])  # type: ignore[arg-type]
    assert np.array_equal(places_of(["2", "1", "0"], names, 3), [2, 1, 0])  # type: ignore[arg-type]
    assert places_of(["ham", "0"], names, 3) is None
    assert places_of(["0", "3"], (), 3) is None
    assert np.array_equal(places_of(["1", "0"], ("1.0", "0.0"), 2), [0, 1])  # type: ignore[arg-type]
    assert np.array_equal(places_of(["02", "01"], ("01", "02"), 2), [1, 0])  # type: ignore[arg-type]
    assert places_of(["-1", "nan"], (), 3) is None


def test_labels_that_are_not_used_are_named_with_the_classes_there_are() -> None:
    assert not_used(["0", "a"], (), 4, "net", "p") == (
        "labels are not used, only agreement with net is measured: 'a' is none of the classes of 'p', which are 0 to 3 "
        "and have no names (the setting labels = FILE gives some)"
    )
    assert "'ham' is none of the classes of 'p', which are 0 to 1 and are called no, yes" in not_used(
        ["no", "ham"], ("no", "yes"), 2, "net", "p"
    )


@pytest.mark.parametrize("labels", [[1, 2, 0, 1, 2, 0], [0, 0, 0, 0, 0, 0]])
def test_labels_of_another_model_are_refused(labels: list[int]) -> None:
    answered = np.array([0, 1, 2, 0, 1, 2])
    with pytest.raises(SetupError, match=r"--samples x.npz: its labels tell nothing: by them net itself is right in "):
        check_related(Path("x.npz"), np.array(labels), answered, "net", "p")
    check_related(Path("x.npz"), np.array([0, 1, 2, 0, 1, 0]), answered, "net", "p")
