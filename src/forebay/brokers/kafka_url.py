"""The URL of a Kafka cluster, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from forebay.core.errors import SetupError
from forebay.core.store_url import masked_url

FORM: Final = (
    "kafka://HOST:PORT/PREFIX or kafkas:// (TLS), with USER:PASSWORD@ before the host for SASL; of a cluster name "
    "several: HOST:PORT,HOST:PORT"
)
_FILES: Final = {"cafile": "ssl.ca.location", "certfile": "ssl.certificate.location", "keyfile": "ssl.key.location"}
_CHOICES: Final = {
    "create": ("yes", "no"),
    "verify": ("yes", "no"),
    "mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
}
_NUMBERS: Final = {
    "partitions": "partitions",
    "replication": "replication",
    "session_timeout": "session_timeout_s",
    "fetch_wait": "fetch_wait_ms",
}
_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,60}")


class KafkaAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. `hosts` are brokers of one cluster; the first that answers names the others."""

    shown: str
    """The URL without user, password and options: for logs and messages."""
    hosts: tuple[str, ...]
    user: str = ""
    password: str = ""
    tls: bool = False
    prefix: str = "forebay"
    """Begins the name of every topic and group."""
    mechanism: str = "PLAIN"
    create: bool = True
    partitions: int = 12
    """Of a topic that is created here: so many workers of a model have something to do."""
    replication: int = -1
    """Of a topic that is created here; -1: as the cluster does by itself."""
    session_timeout_s: int = 10
    """A worker that was silent for so long has no partitions any more."""
    fetch_wait_ms: int = 100
    verify: bool = True
    certificates: dict[str, str] = {}

    def client(self) -> dict[str, Any]:
        """What every client of librdkafka is told. Raises `SetupError` for files that are not there."""
        for name, path in self.certificates.items():
            if not Path(path).is_file():
                raise SetupError(f"{self.shown!r}: {name} names no file: {path!r}")
        found: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.hosts),
            "client.id": "forebay",
            "security.protocol": f"{'SASL_' if self.user else ''}{'SSL' if self.tls else 'PLAINTEXT'}",
            # A broker that is back is found at once, and one that falls silent is noticed.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "retry.backoff.ms": 50,
            "socket.timeout.ms": 6000,
            "socket.connection.setup.timeout.ms": 4000,
            "socket.keepalive.enable": True,
            "topic.metadata.refresh.interval.ms": 10_000,
        }
        if self.user:
            found |= {"sasl.mechanism": self.mechanism, "sasl.username": self.user, "sasl.password": self.password}
        if self.tls:
            found |= {_FILES[name]: path for name, path in self.certificates.items()}
            found["enable.ssl.certificate.verification"] = self.verify
            if not self.verify:
                found["ssl.endpoint.identification.algorithm"] = "none"
        return found


def parse_url(url: str) -> KafkaAddress:
    """Take a URL apart. Raises `SetupError` for one that no Kafka can have, without showing its password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SetupError(f"the broker's URL cannot be read; write {FORM}") from None
    if "@" in parts.path + parts.query + parts.fragment:
        # A password with a /, ? or # in it ends there what is taken for user, password and host.
        raise SetupError(
            f"{masked_url(url)!r} cannot be read: percent-encode the password, and @ wherever it is no user's: "
            f"/ is %2F, ? %3F, # %23, @ %40; write {FORM}"
        )
    userinfo, _, hosts = parts.netloc.rpartition("@")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    if parts.scheme not in ("kafka", "kafkas"):
        raise SetupError(f"{shown!r} is no URL of a Kafka; write {FORM}")
    if not hosts:
        raise SetupError(f"{shown!r} names no host; write {FORM}")
    prefix = unquote(parts.path.removeprefix("/")) or "forebay"
    if not _PREFIX.fullmatch(prefix):
        raise SetupError(f"{shown!r}: what begins the names of topics has 1 to 60 letters, digits, dots, _ and -")
    user, _, password = userinfo.partition(":")
    tls = parts.scheme == "kafkas"
    options = _options(parts.query, shown)
    _check_tls_options(tls, [*options.get("certificates", ()), *(["verify"] if "verify" in options else [])], shown)
    return KafkaAddress(
        shown=shown,
        hosts=_hosts(hosts, 9093 if tls else 9092, shown),
        user=unquote(user),
        password=unquote(password),
        tls=tls,
        prefix=prefix,
        **options,
    )


def _options(query: str, shown: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    certificates: dict[str, str] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in _FILES:
            certificates[name] = text
        elif name in _CHOICES:
            if text not in _CHOICES[name]:
                raise SetupError(f"{shown!r}: {name} must be {' or '.join(_CHOICES[name])}, got {text!r}")
            options[name] = text == "yes" if name in ("create", "verify") else text
        elif name in _NUMBERS:
            if not (text.isascii() and text.isdecimal() and int(text) > 0):
                raise SetupError(f"{shown!r}: {name} must be a number above 0, got {text!r}")
            options[_NUMBERS[name]] = int(text)
        else:
            known = ", ".join(sorted({*_FILES, *_CHOICES, *_NUMBERS}))
            raise SetupError(f"{shown!r}: unknown option {name!r}; there are {known}")
    return options | ({"certificates": certificates} if certificates else {})


def _check_tls_options(tls: bool, named: list[str], shown: str) -> None:
    """Raises `SetupError` for what would be passed over in silence."""
    if named and not tls:
        raise SetupError(f"{shown!r}: {', '.join(named)}: only with TLS; write kafkas://")
    if "keyfile" in named and "certfile" not in named:
        raise SetupError(f"{shown!r}: keyfile is the key of a certificate, so name that too: certfile=PATH")


def _hosts(text: str, port: int, shown: str) -> tuple[str, ...]:
    hosts = []
    for item in text.split(","):
        try:
            one = urlsplit(f"//{item}")
            name, found = one.hostname, one.port or port
        except ValueError:
            name, found = None, 0
        if not name:
            raise SetupError(f"{shown!r}: {item!r} is no HOST:PORT")
        hosts.append(f"[{name}]:{found}" if ":" in name else f"{name}:{found}")
    return tuple(hosts)
