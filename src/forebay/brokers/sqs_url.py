"""The URL of an SQS, taken apart."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from forebay.core.errors import SetupError
from forebay.core.store_url import masked_url

FORM: Final = (
    "sqs://REGION/PREFIX, for instance sqs://eu-west-1/forebay (sqs:///: the region of AWS_REGION or a profile)"
)
_OPTIONS: Final = frozenset({"endpoint", "profile", "fifo", "create", "poll"})
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_REGION: Final = re.compile(r"[a-z0-9-]*")
LONGEST_POLL_S: Final = 20


class SqsAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. Who we are is not in it: that is found as every AWS tool finds it."""

    shown: str
    """The URL without options, for logs and messages."""
    region: str = ""
    """Empty: that of the environment or the profile."""
    prefix: str = "forebay"
    """Begins the name of every queue."""
    endpoint: str = ""
    """Where something listens that speaks as SQS does; empty: AWS."""
    profile: str = ""
    fifo: bool = False
    create: bool = True
    """Queues that are not there are made."""
    poll_s: int = 5
    """How long SQS holds a call that finds nothing: longer costs fewer calls, and a longer end."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.shown} ({self.endpoint})" if self.endpoint else self.shown


def parse_url(url: str) -> SqsAddress:
    """Take a URL apart. Raises `SetupError` for one that no SQS can have, without showing what may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SetupError(f"the broker's URL cannot be read; write {FORM}") from None
    if "@" in parts.netloc + parts.path + parts.query + parts.fragment:
        raise SetupError(
            f"{masked_url(url)!r}: an SQS has no user in its URL; credentials are found as AWS tools find them "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, the role of the machine or pod)"
        )
    region, prefix = parts.netloc, unquote(parts.path.removeprefix("/")) or "forebay"
    shown = f"{parts.scheme}://{region}/{prefix}"
    if parts.scheme != "sqs":
        raise SetupError(f"{shown!r} is no URL of an SQS; write {FORM}")
    if parts.fragment or _REGION.fullmatch(region) is None:
        raise SetupError(
            f"{shown!r}: {region!r} is no region; write {FORM}; what is not AWS is named by ?endpoint=http://HOST:PORT"
        )
    if _PREFIX.fullmatch(prefix) is None:
        raise SetupError(f"{shown!r}: the prefix must have 1 to 40 of A-Z, a-z, 0-9, _ and -, got {prefix!r}")
    return SqsAddress(shown=shown, region=region, prefix=prefix, **_options(parts.query, shown))


def _options(query: str, shown: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise SetupError(f"{shown!r}: unknown option {name!r}; there are {', '.join(sorted(_OPTIONS))}")
        if name == "endpoint":
            if not text.startswith(("http://", "https://")):
                raise SetupError(f"{shown!r}: endpoint must be http://HOST:PORT or https://HOST:PORT, got {text!r}")
            options[name] = text.rstrip("/")
        elif name == "profile":
            options[name] = text
        elif name == "poll":
            if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= LONGEST_POLL_S):
                raise SetupError(f"{shown!r}: poll must be 1 to {LONGEST_POLL_S} seconds, got {text!r}")
            options["poll_s"] = int(text)
        else:
            if text not in ("yes", "no"):
                raise SetupError(f"{shown!r}: {name} must be yes or no, got {text!r}")
            options[name] = text == "yes"
    return options
