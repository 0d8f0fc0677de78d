"""In which order a text has its dates and units: open on Saturday and closed on Sunday is not the other way round."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_GAP: Final = re.compile(r"(and |or )?(?:(?:on|in|at|of|during) )?(?:(?:the|an?) )?")
"""What may stand between two that could change places: `Saturday and Sunday`, `in the evening on Sundays`."""
_ENDS_OF_A_SPAN: Final = "between"
_BEFORE_A_SPAN: Final = 2


class Named(NamedTuple):
    """A date or unit, where it stands, and what sort it is of. `bound`: a number beside it belongs to it."""

    place: int
    name: str
    kind: int
    bound: bool


def in_sequence(words: Sequence[str], named: Sequence[Named]) -> tuple[str, ...]:
    """Their names in order, those sorted that say the same in any: a list of one kind, or a phrase of several kinds."""
    runs: list[list[Named]] = []
    for one in named:
        if runs and _may_change_places(words, runs[-1], one):
            runs[-1].append(one)
        else:
            runs.append([one])
    return tuple(name for run in runs for name in sorted(one.name for one in run))


def _may_change_places(words: Sequence[str], run: Sequence[Named], one: Named) -> bool:
    last = run[-1]
    gap = _GAP.fullmatch("".join(f"{word} " for word in words[last.place + 1 : one.place]))
    if gap is None:
        return False
    kinds = [member.kind for member in run]
    if gap[1] is None:
        return one.kind not in kinds and len(set(kinds)) == len(kinds)
    spans = _ENDS_OF_A_SPAN in words[max(0, run[0].place - _BEFORE_A_SPAN) : run[0].place]
    return set(kinds) == {one.kind} and not (spans or last.bound or one.bound)
