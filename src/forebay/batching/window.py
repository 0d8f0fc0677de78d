"""Which of the waiting items to run when not all can make their deadlines."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.batching.latency import Curve


def choose_window(
    deadlines: Sequence[float], start: float, curve: Curve, band: float, limit: int, worth: float
) -> tuple[int, int]:
    """How many of the first items to pass over, and how many rows a batch of those that follow may have.

    `deadlines` are those of the waiting items in order, `worth` the rows a second that the time of the instance is
    worth (0 when it is not short). The first may be so late that it allows a few rows only, while those behind it
    become late in their turn: then throughput collapses. So where serving it costs others their deadline, the choice
    is by what is answered in time less what the time spent is worth.
    """
    seconds = curve.seconds

    def room(first: int, at: float) -> int:
        """Rows that a batch may have that begins at `at` with item number `first`."""
        return min(limit, curve.rows_within((deadlines[first] - at) / band))

    def first_full(low: int, at: float) -> int:
        """The first item from `low` whose deadline leaves room for all behind it, or for a full batch."""
        high = waiting
        while low < high:
            middle = (low + high) // 2
            if room(middle, at) >= min(limit, waiting - middle):
                high = middle
            else:
                low = middle + 1
        return low

    waiting = len(deadlines)
    cap = max(1, room(0, start))
    if cap >= min(limit, waiting):
        return 0, cap
    then = start + seconds[cap]
    passed = first_full(cap, then)
    if passed == cap:
        return 0, cap  # those behind can wait for it
    next_rows = min(limit, waiting - passed, room(passed, then)) if passed < waiting else 0
    best = cap + next_rows - worth * (seconds[cap] + seconds[next_rows])
    choice = 0, cap
    full = first_full(0, start)
    for skip in {full // 4, full // 2, full * 3 // 4, full}:
        if not 0 < skip < waiting:
            continue
        rows = min(waiting - skip, room(skip, start))
        if rows < 1:
            continue
        value = rows - worth * seconds[rows]
        if value > best:
            best, choice = value, (skip, room(skip, start))
    return choice
