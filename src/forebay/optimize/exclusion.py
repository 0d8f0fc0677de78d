"""Which parts of a graph to leave in floating point: the greedy search behind static quantisation. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exclusion:
    """`excluded`: parts left in floating point, the most harmful first. `tried`: how many sets were judged."""

    excluded: list[str]
    holds: bool
    tried: int


def rank(errors: Mapping[str, float]) -> list[str]:
    """The most harmful part first; ties by name, so that a search is the same each time."""
    return sorted(errors, key=lambda name: (-errors[name], name))


def exclude(ranking: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> Exclusion:
    """The shortest run of the ranking whose exclusion holds the gate: greedy from the most harmful part on.

    Harm is taken to fall as parts are excluded, so that the run is found by halving: log2 of the parts judgements in
    place of one for each. Excluding none is tried first. Where even excluding all but one does not hold, `holds` is
    False.
    """
    tried = 0

    def judged(count: int) -> bool:
        nonlocal tried
        tried += 1
        return holds(ranking[:count])

    most = len(ranking) - 1
    if most < 0:
        return Exclusion([], holds=False, tried=tried)
    if judged(0):
        return Exclusion([], holds=True, tried=tried)
    if most == 0 or not judged(most):
        return Exclusion(list(ranking[:most]), holds=False, tried=tried)
    low, high = 1, most  # high holds
    while low < high:
        middle = (low + high) // 2
        if judged(middle):
            high = middle
        else:
            low = middle + 1
    return Exclusion(list(ranking[:high]), holds=True, tried=tried)
