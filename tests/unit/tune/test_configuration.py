"""What there is to choose between."""

from __future__ import annotations

import pytest

from forebay.core.errors import SetupError
from forebay.tune.configuration import grid, parse_counts


def sizes(instances: list[int], threads: list[int], cores: int) -> list[str]:
    return [one.size for one in grid(["m"], instances, threads, [8], cores)]


def test_of_itself_it_is_what_can_make_use_of_the_cores() -> None:
    assert sizes([], [], 2) == ["2x1", "1x1", "1x2"]
    assert all(int(size[0]) * int(size[2:]) <= 4 for size in sizes([], [], 4))


def test_what_is_named_is_taken_as_it_is() -> None:
    assert sizes([1, 2], [1, 2], 2) == ["2x1", "1x1", "2x2", "1x2"]


def test_where_one_is_named_the_other_is_what_fits() -> None:
    assert sizes([2], [], 2) == ["2x1"]
    assert sizes([], [2], 4) == ["2x2", "1x2"]
    assert sizes([3], [], 2) == ["3x1"], "what the operator names is never left out"


def test_every_artefact_and_cap_is_crossed() -> None:
    found = grid(["a", "b"], [1], [1], [32, 8], cores=1)
    assert [(one.artefact, one.max_batch_rows) for one in found] == [("a", 8), ("a", 32), ("b", 8), ("b", 32)]


def test_counts_are_numbers_with_commas() -> None:
    assert parse_counts("--threads", "4, 1,1") == [1, 4]
    assert parse_counts("--threads", None) == []


@pytest.mark.parametrize("text", ["", "0", "1,", "two", "1.5", "-1", "99999"])
def test_other_counts_are_an_error_that_names_flag_and_value(text: str) -> None:
    with pytest.raises(SetupError, match="--threads 1,2,4") as caught:
        parse_counts("--threads", text)
    assert repr(text) in caught.value.message
