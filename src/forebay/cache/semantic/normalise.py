"""The normalised form of a text: what asks the same, whatever the embedder makes of it."""

from __future__ import annotations

from forebay.cache.semantic.tokens import canonical

_ENDS = " .?!…"


def normalised(text: str) -> str:
    """One form of Unicode, quotes and dashes, no capital letters, single spaces, nothing at the end of the text.

    What a capital letter may have said is left to the guard, which sees both texts as they stand.
    """
    return " ".join(canonical(text).lower().split()).rstrip(_ENDS)
