"""URLs of a store of jobs: which forms there are, and how they are shown without their passwords."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

FORMS: Final = (
    "redis://HOST:PORT, rediss://HOST:PORT (TLS), unix:///PATH, redis+sentinel://HOST:PORT/SERVICE or "
    "redis+cluster://HOST:PORT"
)
SCHEMES: Final = frozenset(
    {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
)

_USER_INFO = re.compile(r"^(?P<scheme>[^:/?#]*://)(?:(?P<user>[^:]*):.*|[^:]*)@", re.DOTALL)
_PASSWORD_OPTION = re.compile(r"((?:^|[?&;])[^=&;]*password=)[^&;#]*", re.IGNORECASE)


def is_store_url(url: str) -> bool:
    """Whether its form is known, with the place that it needs. What else it says is read when it is connected to."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme not in SCHEMES:
        return False
    return bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname)


def masked_url(url: str) -> str:
    """The URL with `***` for its password, or for a user without one, which may be a token. A password that is not
    quoted as it should be is hidden too, with more than itself."""
    # The path of a socket may hold any sign, so only what stands before one is looked at.
    path_only = url.startswith("unix:///")
    hidden = url if path_only else _USER_INFO.sub(lambda found: f"{found['scheme']}{_user(found['user'])}***@", url)
    return _PASSWORD_OPTION.sub(r"\1***", hidden)


def _user(name: str | None) -> str:
    return "" if name is None else f"{name}:"
