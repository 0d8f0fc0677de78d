"""Which requests may share a batch, and the pieces of one that is larger than a batch should be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from forebay.core.request import Request
from forebay.core.tensors import element_count
from forebay.engine.assemble import cut
from forebay.engine.flight import nobody
from forebay.engine.padding import rounded
from forebay.models.signature import Signature


class Pieces:
    """The pieces of a split request, and how many are not answered yet."""

    __slots__ = ("items", "left")

    def __init__(self, items: list[Request]) -> None:
        self.items = items
        self.left = len(items)


def is_fixed(signature: Signature) -> bool:
    """Whether all requests have the same row shapes: one lane, no length."""
    return not any(spec.variable or spec.datatype == "BYTES" for spec in signature.inputs)


def lane_and_length(signature: Signature, pads: bool, request: Request, multiple: int = 1) -> None:
    """Fill in the request's lane (requests of different lanes never share a batch) and its length.

    The length of a row of BYTES is its byte count; of other inputs, their variable axis, as it is filled up to a
    multiple: that is what it costs, and what takes no more is good company. An empty row has length 1, since 0 is that
    of a fixed shape.
    """
    length = 0
    apart = False
    for spec in signature.inputs:
        if spec.datatype == "BYTES":
            length = max(length, request.nbytes // request.rows)
            apart |= spec.variable
        elif spec.variable:
            shape = request.shapes[signature.inputs.index(spec)]
            length = max(length, *(got for want, got in zip(spec.row_shape, shape, strict=True) if want == -1))
            apart |= not pads
    request.length = 0 if is_fixed(signature) else max(1, rounded(length, multiple))
    request.lane = request.shapes if apart else None


def split(signature: Signature, request: Request, limit_rows: int, on_done: Callable[[Request], None]) -> list[Request]:
    """The request's rows in pieces of at most `limit_rows`. Each piece's `pieces` is the request that it belongs to."""
    pieces: list[Request] = []
    edges = [*range(0, request.rows, limit_rows), request.rows]
    columns = [
        cut(payload, spec.datatype, element_count(shape), edges)
        for payload, spec, shape in zip(request.inputs, signature.inputs, request.shapes, strict=True)
    ]
    for place, (start, stop) in enumerate(pairwise(edges)):
        piece = Request(
            [column[place] for column in columns],
            request.shapes,
            stop - start,
            nbytes=request.nbytes * (stop - start) // request.rows,
            deadline=request.deadline,
            arrived=request.arrived,
            on_done=on_done,
            priority=request.priority,
            length=request.length,
            lane=request.lane,
            explain=request.explain,
            background=request.background,
        )
        piece.pieces = request
        if request.listener is not None:
            piece.listener = request.listener.part(start)
        pieces.append(piece)
    return pieces


def halve(signature: Signature, item: Request, on_done: Callable[[Request], None]) -> list[Request]:
    """A request of several rows, or a piece of one, in two. Both halves are pieces of the whole request."""
    halves = split(signature, item, -(-item.rows // 2), on_done)
    if not isinstance(item.pieces, Request):
        item.pieces = Pieces(halves)
        return halves
    whole, item.on_done = item.pieces, nobody
    pieces: Pieces = whole.pieces
    place = pieces.items.index(item)
    pieces.items[place : place + 1] = halves
    pieces.left += len(halves) - 1
    for half in halves:
        half.pieces = whole
    return halves
