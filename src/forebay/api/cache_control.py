"""What a caller wants of the cache, from the headers of a request; and what the cache did, as headers of its answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from forebay.api.encode import HeaderPairs
from forebay.core.caching import USUAL_ASK, CacheAsk, CacheNote, Use
from forebay.core.errors import RequestError

MOST_TAGS, LONGEST_TAG = 16, 128
MOST_AGE_S = 1 << 31
_DIRECTIVE = re.compile(r"""([^\s,="]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*))?""")
"""Name and value; a value may be a quoted string, in which commas are no ends (RFC 9110, 5.6.4)."""
_USES: dict[str, Use] = {"only-if-cached": "only", "no-store": "off", "no-cache": "refresh"}
"""Directives of Cache-Control (RFC 9111, 5.2.1), the strongest first: whoever says only-if-cached wants nothing run,
whatever else is said."""


def ask_of(headers: Iterable[tuple[bytes, bytes]], tenant: str) -> CacheAsk:
    """`headers` as they came, names in lower case. Raises `RequestError` for tags that cannot be.

    Directives that are not known are passed over, as RFC 9111 wants it.
    """
    control: list[tuple[str, str]] = []
    tags: list[str] = []
    for name, value in headers:
        if name == b"cache-control":
            control += _DIRECTIVE.findall(value.decode("latin-1").lower())
        elif name == b"cache-tag":
            tags += _text(value).split(",")
    if not control and not tags:
        return USUAL_ASK if not tenant else CacheAsk(tenant)
    directives = [(name, value.strip('"')) for name, value in control]
    names = {name for name, _ in directives}
    use: Use = next((use for name, use in _USES.items() if name in names), "use")
    max_age_s = min((_seconds(value) for name, value in directives if name == "max-age"), default=None)
    if use == "only" and "no-cache" in names:
        max_age_s = -1.0  # nothing that is kept will do, and nothing may be run (RFC 9111, 5.2.1.4)
    keeps = use != "only" or "no-store" not in names
    return CacheAsk(tenant, use, max_age_s, read_tags(tags), keeps)


def _text(tags: bytes) -> str:
    """Tags as text. Headers have no encoding of their own; queries and command lines, which name the tags again, are
    UTF-8, and another reading of the same bytes would never be found."""
    try:
        return tags.decode()
    except UnicodeDecodeError:
        raise RequestError("Cache-Tag is not valid UTF-8") from None


def _seconds(text: str) -> float:
    """Of `max-age=N`. What is no number means that no answer is fresh enough (RFC 9111, 4.2.1); a number that is too
    large counts as 2^31 (1.2.2)."""
    if not (text.isascii() and text.isdigit()):
        return 0.0
    digits = text.lstrip("0") or "0"
    return float(min(int(digits), MOST_AGE_S) if len(digits) < 11 else MOST_AGE_S)


def read_tags(words: Iterable[str]) -> tuple[str, ...]:
    """Tags of what is kept, by which it can be found again. Raises `RequestError`."""
    tags = tuple(sorted({tag for word in words if (tag := word.strip())}))
    if len(tags) > MOST_TAGS or any(len(tag) > LONGEST_TAG or not tag.isprintable() for tag in tags):
        raise RequestError(f"Cache-Tag takes at most {MOST_TAGS} tags of at most {LONGEST_TAG} characters each")
    return tags


def told(note: CacheNote) -> HeaderPairs:
    """What the cache did, as headers."""
    if not note.entry:
        return ((b"x-cache", note.outcome.encode()),)
    pairs = [
        (b"x-cache", note.outcome.encode()),
        (b"x-cache-entry", note.entry.encode()),
        (b"age", b"%d" % note.age_s),
    ]
    if note.score is not None:
        pairs.append((b"x-cache-score", b"%.4f" % note.score))
    return tuple(pairs)
