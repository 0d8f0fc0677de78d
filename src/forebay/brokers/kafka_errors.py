"""What goes wrong with a Kafka, in words that name the mend."""

from __future__ import annotations

import logging
import re
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from forebay.brokers.kafka_url import KafkaAddress
from forebay.core.errors import DependencyError, SetupError

log = logging.getLogger("forebay.jobs")

FAILURES = (KafkaException, TimeoutError, BufferError)
"""What confluent-kafka raises where the broker, or the way there, is at fault."""
_FORBIDDEN: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_REFUSED: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_NOT_CREATED: Final = frozenset(
    {
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)
UNKNOWN_TOPICS: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)
_PLACE: Final = re.compile(r"^\S*://?\S+: |^\S+/(?:bootstrap|\d+): ")
_AFTER: Final = re.compile(r" \(after \d+ms in state \w+.*\)$")


_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})


class ClientLog:
    """Where librdkafka writes, which would else be stderr: all it says of what matters comes as an error, too."""

    def log(self, level: int, text: str, *words: object) -> None:
        """As a logger's."""
        log.debug(text, *words)


def unavailable(words: str, address: KafkaAddress) -> DependencyError:
    """The broker cannot be used now."""
    return DependencyError(f"Kafka at {address.shown}: {words}", code="broker_unavailable")


def failure(error: BaseException | KafkaError, address: KafkaAddress) -> DependencyError:
    """The error that callers get."""
    return unavailable(setup_words(error, address) or _words(error), address)


def setup_failure(error: BaseException | KafkaError, address: KafkaAddress) -> SetupError | None:
    """What an operator has to mend before anything works; None: it may pass by itself."""
    if isinstance(error, SetupError):
        return error
    words = setup_words(error, address)
    return None if words is None else SetupError(f"Kafka at {address.shown}: {words}")


def setup_words(error: BaseException | KafkaError, address: KafkaAddress) -> str | None:
    """For what does not pass by itself."""
    if isinstance(error, SetupError):
        return error.message
    told = kafka_error(error)
    if told is None:
        return None
    code, text = told.code(), _reason(told)
    if code in _REFUSED:
        if not address.user:
            return f"it wants a user and a password, which the broker's URL does not name ({text})"
        return (
            f"it refuses user {address.user!r}, the password, or mechanism {address.mechanism} ({text}); mend the "
            "broker's URL: mechanism=PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        )
    if code == KafkaError._SSL:
        hint = "name the certificate of who signed the broker's: cafile=PATH" if address.tls else "kafkas:// is for TLS"
        return f"TLS fails ({text}); {hint}"
    if code == KafkaError._INVALID_ARG:
        return f"what its URL says cannot be used ({text})"
    if code in _FORBIDDEN:
        who = f"user {address.user!r}" if address.user else "this client"
        return f"{who} lacks a permission ({text}); docs/kafka.md says which are needed"
    if code in UNKNOWN_TOPICS and not address.create:
        return (
            f"a topic is missing ({text}); create it as docs/kafka.md says, or leave create=no out of the broker's URL"
        )
    if code in _NOT_CREATED:
        return f"it does not create a topic ({text}); mend partitions= or replication= in the broker's URL"
    return None


def is_refusal(error: BaseException | KafkaError) -> bool:
    """Whether brokers that answer refuse a topic or its group, which says nothing of others."""
    told = kafka_error(error)
    if told is None or told.code() in _REFUSED or told.code() == KafkaError.REQUEST_TIMED_OUT:
        return False
    return told.code() in UNKNOWN_TOPICS or told.code() > 0  # below it is the client that speaks


def is_too_large(error: KafkaError | None) -> bool:
    """Whether a record is refused for its size, or that of the batch in which librdkafka had put it."""
    return error is not None and error.code() in _TOO_LARGE


def kafka_error(error: BaseException | KafkaError) -> KafkaError | None:
    """What librdkafka says, out of what was raised."""
    if isinstance(error, KafkaError):
        return error
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return error.args[0]
    return None


def _words(error: BaseException | KafkaError) -> str:
    told = kafka_error(error)
    if told is None:
        return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    if told.code() in (KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._MSG_TIMED_OUT):
        return "no answer in time"
    if told.code() in (KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._ALL_BROKERS_DOWN):
        return f"cannot be reached, or the connection broke ({_reason(told)})"
    return f"{told.name()}: {_reason(told)}"


def _reason(error: KafkaError) -> str:
    """What it says, without the broker's name and the time, which would make each line another."""
    return _AFTER.sub("", _PLACE.sub("", error.str()))
