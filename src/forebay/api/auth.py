"""Who may call, and how often: API keys, quotas, and the rule for binding an address that others can reach.

Plain functions and values: the express lane and the ASGI endpoints call the same ones, with the raw header's bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from forebay.core.clock import Clock
from forebay.core.errors import AdmissionError, SetupError
from forebay.core.settings import ServerSettings
from forebay.core.settings_values import shown, shown_path

ANONYMOUS = "anonymous"
"""The tenant of every caller of a server without keys."""

SECRET_PREFIX = "fb_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_REMEMBERED_HEADERS = 128
_LONGEST_HEADER_BYTES = 1024
_SAME_PLACE = ("same-origin", "none")


def new_secret() -> str:
    """A fresh API key: `fb_` and 256 random bits as URL-safe text."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def key_line(name: str, secret: str) -> str:
    """The line NAME:SHA256HEX that lets `secret` in under `name`. Raises `SetupError` for a name that cannot be one."""
    if not _NAME.fullmatch(name) or name == ANONYMOUS:
        raise SetupError(
            f"key name {shown(name)} cannot be used; accepted: 1 to 64 letters, digits, '.', '_' and '-', the first "
            f"a letter or digit, and not {ANONYMOUS!r}"
        )
    return f"{name}:{hashlib.sha256(secret.encode()).hexdigest()}"


class Keys:
    """The API keys of a server: tenant name to the SHA-256 of its secret. Empty: everybody is `ANONYMOUS`."""

    __slots__ = ("_digests", "_verified")

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        """`digests`: tenant name to the 32 bytes of its secret's SHA-256."""
        self._digests = dict(digests)
        # Headers that were verified, so that a busy client's is hashed once. Only right ones enter, so strangers cannot
        # fill it; the oldest leaves. A look-up reveals nothing by its time: Python compares bytes only where their
        # keyed hashes are equal.
        self._verified: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def load(cls, file: Path | None, lines: str | None) -> Keys:
        """The keys of `FOREBAY_API_KEYS` (`lines`) or of a file; neither: no keys.

        Raises `SetupError` where the file cannot be read, a line is wrong, or there is not one key.
        """
        if lines is not None:
            return cls.parse(lines.replace(",", "\n"), "FOREBAY_API_KEYS")
        if file is None:
            return cls({})
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
            raise SetupError(f"API keys file {shown_path(file)} cannot be read: {reason}") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, source: str, *, allow_empty: bool = False) -> Keys:
        """Keys from lines NAME:SHA256HEX; `#` starts a comment line. A `SetupError` names the line, never its text."""
        digests: dict[str, bytes] = {}
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            name, _, digest = line.partition(":")
            if not _NAME.fullmatch(name) or name == ANONYMOUS or not _DIGEST.fullmatch(digest):
                raise SetupError(f"{source} line {number}: is not NAME:SHA256HEX; make one with: forebay keys new NAME")
            if name in digests:
                raise SetupError(f"{source} line {number}: the name {name!r} stands twice; remove one line")
            if bytes.fromhex(digest) in digests.values():
                raise SetupError(
                    f"{source} line {number}: {name!r} has the same secret as a line above; make a new key"
                )
            digests[name] = bytes.fromhex(digest)
        if not digests and not allow_empty:
            raise SetupError(f"{source}: holds no key; make one with: forebay keys new NAME")
        return cls(digests)

    def names(self) -> list[str]:
        """The tenants, in the order of the lines."""
        return list(self._digests)

    def authenticate(self, authorization: bytes | None) -> str | None:
        """The tenant of an `Authorization` header's value, or None where it proves none.

        Without keys everybody is `ANONYMOUS`. The secret is compared, by its digest, against every key, whichever fits:
        the time taken does not depend on which key it is or how much of one is right.
        """
        if not self._digests:
            return ANONYMOUS
        if authorization is None:
            return None
        tenant = self._verified.get(authorization)
        if tenant is not None:
            return tenant
        if len(authorization) > _LONGEST_HEADER_BYTES:
            return None
        scheme, _, secret = authorization.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        presented = hashlib.sha256(secret.strip()).digest()
        for name, digest in self._digests.items():
            if hmac.compare_digest(presented, digest):
                tenant = name
        if tenant is not None:
            if len(self._verified) >= _REMEMBERED_HEADERS:
                del self._verified[next(iter(self._verified))]
            self._verified[bytes(authorization)] = tenant
        return tenant


class Quota:
    """A token bucket for each tenant: `requests_per_s` on average, one second's worth (at least 1) at once."""

    __slots__ = ("_buckets", "_burst", "_clock", "_rate_per_s")

    def __init__(self, requests_per_s: float | None, clock: Clock) -> None:
        """`requests_per_s`: None for no quota. `clock`: monotonic seconds."""
        self._rate_per_s = requests_per_s
        self._burst = max(1.0, requests_per_s or 0.0)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    @property
    def limits(self) -> bool:
        """Whether there is a quota at all."""
        return self._rate_per_s is not None

    def take(self, tenant: str) -> float:
        """Takes one request from the tenant's bucket: 0.0, or the seconds to wait where it is empty."""
        rate_per_s = self._rate_per_s
        if rate_per_s is None:
            return 0.0
        now = self._clock()
        tokens, then = self._buckets.get(tenant, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * rate_per_s)
        allowed = tokens >= 1.0
        self._buckets[tenant] = (tokens - 1.0 if allowed else tokens, now)
        return 0.0 if allowed else (1.0 - tokens) / rate_per_s


class Gate:
    """Keys and quota together: what every request passes first."""

    __slots__ = ("_keys", "_quota", "guards", "keyed")

    def __init__(self, keys: Keys, quota: Quota) -> None:
        self._keys = keys
        self._quota = quota
        self.guards = len(keys) > 0 or quota.limits
        """Whether `enter` ever refuses anybody."""
        self.keyed = len(keys) > 0
        """Whether it asks for a key."""

    def enter(self, authorization: bytes | None) -> str:
        """The tenant of a request that may go on. Raises `AdmissionError`: `unauthorized`, `over_quota`.

        authorization: the header's value as it came; None where there is no such header.
        """
        tenant = self._keys.authenticate(authorization)
        if tenant is None:
            raise AdmissionError(
                "an API key is needed: send Authorization: Bearer KEY"
                if authorization is None
                else "the Authorization header holds no valid API key (Bearer KEY)",
                code="unauthorized",
            )
        wait_s = self._quota.take(tenant)
        if wait_s > 0.0:
            raise AdmissionError(f"the quota of key {tenant!r} is used up", code="over_quota", retry_after_s=wait_s)
        return tenant

    def tenant(self, authorization: bytes | None) -> str:
        """The tenant of a request that `enter` has let in."""
        tenant = self._keys.authenticate(authorization)
        assert tenant is not None
        return tenant


def is_loopback(host: str) -> bool:
    """Does only this machine reach a server bound to `host`? A name other than localhost counts as reachable."""
    bare = host.strip().removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare.lower() == "localhost"


def is_address(host: str) -> bool:
    """Whether a host is an IP address, or localhost: nobody else can make it point elsewhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return True


def from_here(headers: Mapping[str, str], *, keys: bool) -> bool:
    """Whether no web page of another site can be behind a request.

    A browser sends what any page tells it to, and says where the page came from: by Sec-Fetch-Site (to addresses that
    it trusts), by Origin (with every POST). A name may be made to point here by whoever owns it (DNS rebinding), so
    without API keys a page must have been asked for by an address or as localhost.
    """
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is None and origin is None:
        return True
    try:
        if (site or "none") not in _SAME_PLACE or (origin is not None and urlsplit(origin).netloc != host):
            return False
        return keys or is_address(urlsplit(f"//{host}").hostname or "")
    except ValueError:  # no URL, such as http://[
        return False


def control_refusal(server: ServerSettings, keys: Keys, *, listens: bool = True) -> str:
    """Why models may not be loaded and unloaded over HTTP; empty where they may.

    listens: the address in the settings is the one that is bound, and no other program's matter.

    Loading runs the code of a Python model and takes memory, unloading takes a model from everybody: strangers may not.
    """
    if server.model_control == "off":
        return "loading and unloading over HTTP is off (server.model_control)"
    if server.model_control == "on" or len(keys) or (listens and is_loopback(server.host)):
        return ""
    return "loading and unloading needs API keys on an address that others can reach, or --model-control on"


def check_bind(host: str, keys: Keys, insecure_no_auth: bool) -> None:
    """Raises `SetupError` for a bind that others reach without keys, unless the operator said that this is meant."""
    if insecure_no_auth and len(keys):
        raise SetupError("API keys and insecure_no_auth are both set; drop --insecure-no-auth or the keys")
    if is_loopback(host) or len(keys) or insecure_no_auth:
        return
    raise SetupError(
        f"server.host {host!r} can be reached from other machines, and there are no API keys; make one with "
        "`forebay keys new NAME --file keys.txt` and start with --api-keys keys.txt, or bind 127.0.0.1, "
        "or say --insecure-no-auth"
    )
