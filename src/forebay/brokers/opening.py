"""The URL of a broker beside the store to its client, whose library is loaded only then."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final, Protocol

from forebay.brokers.port import Broker
from forebay.core.errors import SetupError
from forebay.core.store_url import masked_url

RABBITMQ_SCHEMES: Final = frozenset({"amqp", "amqps"})
SQS_SCHEME: Final = "sqs"
KAFKA_SCHEMES: Final = frozenset({"kafka", "kafkas"})
_EXTRAS: Final = {
    **dict.fromkeys(RABBITMQ_SCHEMES, "rabbitmq"),
    **dict.fromkeys(KAFKA_SCHEMES, "kafka"),
    SQS_SCHEME: "sqs",
}
OWN_BROKERS: Final = "forebay.brokers"
"""The group of entry points in which other packages name brokers of their own: the scheme of the URL, and what makes a
client of it."""


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
    extra = _EXTRAS.get(scheme)
    try:
        if extra == "rabbitmq":
            from forebay.brokers.rabbitmq import RabbitMq

            return RabbitMq(url)
        if extra == "sqs":
            from forebay.brokers.sqs import Sqs

            return Sqs(url)
        if extra == "kafka":
            from forebay.brokers.kafka import Kafka

            return Kafka(url)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"broker {masked_url(url)!r} needs a library that is not here ({error}): pip install 'forebay[{extra}]'"
        ) from None
    return _own(url, scheme)


def _own(url: str, scheme: str) -> Carrier:
    for point in entry_points(group=OWN_BROKERS, name=scheme):
        try:
            carrier: Carrier = point.load()(url)
        except (ImportError, AttributeError) as error:
            named = f"{point.value}, which a package here names for it,"
            raise SetupError(f"broker {masked_url(url)!r}: {named} cannot be loaded: {error}") from None
        return carrier
    others = sorted(point.name for point in entry_points(group=OWN_BROKERS))
    installed = f", nor one of those installed here ({', '.join(others)})" if others else ""
    raise SetupError(
        f"broker {masked_url(url)!r} is neither the store nor a RabbitMQ (amqp://HOST:PORT/VHOST, amqps:// for TLS), "
        f"nor an SQS (sqs://REGION/PREFIX), nor a Kafka (kafka://HOST:PORT/PREFIX, kafkas:// for TLS){installed}; "
        "leave --broker out, and the store carries the jobs"
    )
