"""What goes wrong with a RabbitMQ, in words that name the mend."""

from __future__ import annotations

from aiormq import exceptions as amqp

from forebay.brokers.rabbitmq_url import RabbitAddress
from forebay.core.errors import DependencyError, SetupError

FAILURES = (amqp.AMQPError, amqp.ChannelInvalidStateError, OSError, TimeoutError, RuntimeError)
"""What aio-pika and aiormq raise where the broker, or the way there, is at fault."""


def unavailable(words: str, address: RabbitAddress) -> DependencyError:
    """The broker cannot be used now."""
    return DependencyError(f"RabbitMQ at {address.shown}: {words}", code="broker_unavailable")


def copied(error: DependencyError) -> DependencyError:
    """The same words, of which nobody has raised anything yet."""
    return DependencyError(error.message, code=error.code)


def failure(error: BaseException, address: RabbitAddress) -> DependencyError:
    """The error that callers get."""
    return unavailable(setup_words(error, address) or _words(error), address)


def setup_failure(error: BaseException, address: RabbitAddress) -> SetupError | None:
    """What an operator has to mend before anything works; None: it may pass by itself."""
    words = setup_words(error, address)
    return None if words is None else SetupError(f"RabbitMQ at {address.shown}: {words}")


def setup_words(error: BaseException, address: RabbitAddress) -> str | None:
    """For what does not pass by itself."""
    if isinstance(error, SetupError):
        return error.message
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


def _reason(error: BaseException) -> str:
    return " ".join(str(argument) for argument in error.args)
