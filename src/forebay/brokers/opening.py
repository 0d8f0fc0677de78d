"""The URL of a broker beside the store to its client, whose library is loaded only then."""

from __future__ import annotations

from typing import Final, Protocol

from forebay.brokers.port import Broker
from forebay.core.errors import SetupError
from forebay.core.store_url import masked_url

RABBITMQ_SCHEMES: Final = frozenset({"amqp", "amqps"})
KAFKA_SCHEMES: Final = frozenset({"kafka", "kafkas"})


class Carrier(Broker, Protocol):
    """A broker that can be looked at before it is used."""

    async def check(self) -> str:
        """Name and version, once it is seen that it will do. Raises `SetupError` for what an operator has to mend, and
        `DependencyError` where it cannot be asked now."""
        ...


def carrier_of(url: str) -> Carrier:
    """The client, not connected. Raises `SetupError` for a URL of no broker that is known, or a library that is
    missing."""
    scheme = url.partition("://")[0]
    try:
        if scheme in RABBITMQ_SCHEMES:
            from forebay.brokers.rabbitmq import RabbitMq

            return RabbitMq(url)
        if scheme in KAFKA_SCHEMES:
            from forebay.brokers.kafka import Kafka

            return Kafka(url)
    except ModuleNotFoundError as error:
        extra = "rabbitmq" if scheme in RABBITMQ_SCHEMES else "kafka"
        raise SetupError(
            f"broker {masked_url(url)!r} needs a library that is not here ({error}): pip install 'forebay[{extra}]'"
        ) from None
    raise SetupError(
        f"broker {masked_url(url)!r} is neither the store nor a RabbitMQ (amqp://HOST:PORT/VHOST, amqps:// for "
        "TLS) nor a Kafka (kafka://HOST:PORT/PREFIX, kafkas:// for TLS); leave --broker out, and the store carries "
        "the jobs"
    )
