"""Which items of different lengths share a batch: those that cost least extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from forebay.batching.fit import length_cell
from forebay.batching.item import Item
from forebay.batching.latency import LatencyModel

T = TypeVar("T", bound=Item)

HOLD_OUT: Final = 1.1
"""How much dearer than with its own kind an item may be and still join. With 1.0 batches stay small where costs are
noisy, as nothing is ever quite as cheap as the ideal; with 2.0 short items pay for the padding of long ones."""

PROBE: Final = 2.0
"""A batch that is to find out whether batches pay takes twice the best rows, if they seem to cost at most twice as much
as elsewhere: what was measured while the machine was slow would keep all later batches small."""


def grow(
    window: Sequence[T], latency: LatencyModel, max_rows: int, start: float, *, probe: bool = False
) -> tuple[list[int], bool]:
    """Choose from the first waiting items. Returns the places taken, and whether a deadline stopped the growth.

    The first item is always taken. Then, from it outwards in order of length, the item that saves most joins: its
    marginal cost in this batch (padding included) against what it would cost elsewhere, which is alone, or its share
    of the best batch that its own kind among those waiting could form, times `HOLD_OUT`. `start` is when the batch
    could begin; it must end by the earliest deadline in it. `probe`: see `PROBE`.
    """
    head = window[0]
    worth = PROBE if probe else 1.0
    limit = min(max_rows, int(worth * latency.curve(head.length).best_rows))
    if limit <= head.rows or len(window) == 1:
        return [0], False
    by_length = sorted(range(len(window)), key=lambda i: window[i].length)
    peers: dict[int, int] = {}
    for item in window:
        cell = length_cell(item.length)
        peers[cell] = peers.get(cell, 0) + item.rows
    place = by_length.index(0)
    left, right = place - 1, place + 1
    taken, rows, length, due = [0], head.rows, head.length, head.deadline
    cost = latency.predict(rows, length)
    peers[length_cell(length)] -= rows
    while rows < limit:
        best_gain, best_side, best_cost, late = 0.0, 0, 0.0, False
        for side, at in ((-1, left), (1, right)):
            if not 0 <= at < len(by_length):
                continue
            item = window[by_length[at]]
            if rows + item.rows > limit:
                continue
            new_cost = latency.predict(rows + item.rows, max(length, item.length))
            if start + new_cost * latency.band > min(due, item.deadline):
                late = True
                continue
            gain = worth * _elsewhere(item, peers, latency, max_rows) - (new_cost - cost)
            if gain > best_gain:
                best_gain, best_side, best_cost = gain, side, new_cost
        if not best_side:
            return taken, late
        at = left if best_side < 0 else right
        left, right = (left - 1, right) if best_side < 0 else (left, right + 1)
        item = window[by_length[at]]
        taken.append(by_length[at])
        rows, length, due, cost = rows + item.rows, max(length, item.length), min(due, item.deadline), best_cost
        peers[length_cell(item.length)] -= item.rows
    return taken, False


def _elsewhere(item: Item, peers: dict[int, int], latency: LatencyModel, max_rows: int) -> float:
    """Seconds that an item would cost outside of this batch."""
    rows = min(peers[length_cell(item.length)], max_rows, latency.curve(item.length).best_rows)
    rows = max(rows, item.rows)
    shared = HOLD_OUT * latency.predict(rows, item.length) * item.rows / rows
    return min(shared, latency.predict(item.rows, item.length))
