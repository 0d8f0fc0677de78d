"""What goes wrong with a RabbitMQ, in words that name the mend."""

from __future__ import annotations

import re
import ssl
from typing import Final

from aiormq import exceptions as amqp

from forebay.brokers.rabbitmq_url import RabbitAddress
from forebay.core.errors import DependencyError, SetupError

FAILURES = (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)
"""What aio-pika and aiormq raise where the broker, or the way there, is at fault."""
_TOO_LARGE: Final = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")
_ON_THE_WAY: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""A connection that broke while TLS was begun."""


def unavailable(words: str, address: RabbitAddress) -> DependencyError:
    """The broker cannot be used now."""
    return DependencyError(f"RabbitMQ at {address.shown}: {words}", code="broker_unavailable")


def failure(error: BaseException, address: RabbitAddress) -> DependencyError:
    """The error that callers get."""
    return unavailable(setup_words(error, address) or _words(error), address)


def setup_failure(error: BaseException | None, address: RabbitAddress) -> SetupError | None:
    """What an operator has to mend before anything works; None: it may pass by itself."""
    words = None if error is None else setup_words(error, address)
    return None if words is None else SetupError(f"RabbitMQ at {address.shown}: {words}")


def ended_words(error: BaseException | None, address: RabbitAddress) -> str | None:
    """Why the broker ended a channel or a connection; None: it did not say."""
    if not isinstance(error, amqp.AMQPChannelError | amqp.ConnectionClosed):
        return None
    return setup_words(error, address) or f"it ended the connection: {_reason(error)}"


def most_bytes_of(error: BaseException | None) -> int | None:
    """What the broker takes at most, where it ended a channel for a message that is larger."""
    found = _TOO_LARGE.search(_reason(error)) if isinstance(error, amqp.ChannelPreconditionFailed) else None
    return None if found is None else int(found[1])


def setup_words(error: BaseException, address: RabbitAddress) -> str | None:
    """For what does not pass by itself."""
    if isinstance(error, SetupError):
        return error.message
    if (tls := _tls_error(error)) is not None:
        return f"TLS fails ({_reason(tls)}); {_tls_hint(tls)}"
    text = _reason(error)
    user, vhost = address.user, address.vhost
    rights = f"rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'"
    if isinstance(error, amqp.AuthenticationError | amqp.ProbableAuthenticationError):
        hint = "; guest may only come from the broker's own machine" if user == "guest" else ""
        return f"it refuses user {user!r} or the password; mend the broker's URL{hint}"
    if isinstance(error, amqp.InvalidFrameError) and "Connection.Close" in text:
        # aiormq keeps the reason to itself. This is when a vhost is opened.
        return (
            f"it has no vhost {vhost!r} (rabbitmqctl add_vhost {vhost}), or user {user!r} may not use it ({rights}), "
            "or it takes no more connections there"
        )
    if isinstance(error, amqp.ChannelAccessRefused):
        return f"user {user!r} lacks a permission ({text}); allow it: {rights}, narrower: docs/rabbitmq.md"
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, amqp.ChannelPreconditionFailed | amqp.ConnectionClosed | amqp.ChannelClosed):
        return f"it ended the connection: {_reason(error)}"
    if isinstance(error, OSError | amqp.ChannelInvalidStateError):
        return "cannot be reached, or the connection broke"
    return f"{type(error).__name__}: {_reason(error)}" if _reason(error) else type(error).__name__


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """What TLS found wrong with the other side, which aiormq raises as the cause of an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    return None if isinstance(cause, _ON_THE_WAY) else cause


def _tls_hint(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the certificate of who signed the broker's: cafile=PATH"
    if error.reason == "WRONG_VERSION_NUMBER":
        return "this port does not speak TLS: name the one that does (5671), or write amqp://"
    return "mend cafile=, certfile= and keyfile= in the broker's URL"


def _reason(error: BaseException) -> str:
    return " ".join(str(argument) for argument in error.args)
