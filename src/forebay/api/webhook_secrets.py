"""Signatures of webhooks, as Standard Webhooks has them.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path

from forebay.core.errors import SetupError
from forebay.core.settings_values import shown_path

SECRET_PREFIX = "whsec_"
_SHORTEST_BYTES, _LONGEST_BYTES = 24, 64


def new_secret() -> str:
    """A fresh secret: `whsec_` and 256 random bits in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


class WebhookSecrets:
    """What webhooks are signed with: one secret, or several while receivers go over from one to the next. Empty: there
    are no webhooks here."""

    __slots__ = ("_keys",)

    def __init__(self, keys: tuple[bytes, ...] = ()) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def load(cls, lines: str | None, file: Path | None) -> WebhookSecrets:
        """Secrets from `lines` (the environment's, which may have commas for line breaks), else from `file`, else none.

        Raises `SetupError` where the file cannot be read, a line is wrong, or there is not one secret.
        """
        if lines is not None:
            return cls.parse(lines.replace(",", "\n"), "FOREBAY_WEBHOOK_SECRETS")
        if file is None:
            return cls()
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
            raise SetupError(f"webhook secrets file {shown_path(file)} cannot be read: {reason}") from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: str, source: str, *, allow_empty: bool = False) -> WebhookSecrets:
        """Secrets from lines whsec_BASE64; `#` starts a comment line. A `SetupError` names the line, never its text."""
        keys: list[bytes] = []
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            try:
                key = base64.b64decode(line.removeprefix(SECRET_PREFIX), validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if not line.startswith(SECRET_PREFIX) or not _SHORTEST_BYTES <= len(key) <= _LONGEST_BYTES:
                raise SetupError(
                    f"{source} line {number}: is not {SECRET_PREFIX} and {_SHORTEST_BYTES} to {_LONGEST_BYTES} random "
                    "bytes in base64; make one with: forebay keys webhook"
                )
            keys.append(key)
        if not keys and not allow_empty:
            raise SetupError(f"{source}: holds no secret; make one with: forebay keys webhook")
        return cls(tuple(keys))

    def sign(self, id: str, timestamp_s: int, body: bytes) -> str:
        """The header webhook-signature of a body that is sent as message `id` at `timestamp_s` (since 1970)."""
        signed = b"%b.%d.%b" % (id.encode(), timestamp_s, body)
        digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in self._keys)
        return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)
