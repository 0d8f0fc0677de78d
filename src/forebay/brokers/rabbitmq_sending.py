"""Packs to a RabbitMQ, each confirmed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aiormq import exceptions as amqp
from aiormq import spec

from forebay.brokers.packs import CONTENT_TYPE, packed
from forebay.brokers.port import Confirmed, Message
from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_queues import Queues

CONFIRM_TIMEOUT_S: Final = 5.0
_AGAIN_S: Final = 0.1
_KEPT_ON_DISK: Final = 2


async def send(
    queues: Queues, session: Session, packs: Sequence[Sequence[Message]], most_bytes: int | None = None
) -> list[Confirmed]:
    """All on their way together, but for those of more than `most_bytes`; what became of each. Raises what aiormq does,
    and `DependencyError`."""
    places = dict.fromkeys((pack[0].queue, pack[0].level) for pack in packs)
    names = {place: await queues.need(*place) for place in places}
    sending = [_send(queues, session, pack, names[pack[0].queue, pack[0].level], most_bytes) for pack in packs]
    return await asyncio.gather(*sending)


async def _send(
    queues: Queues, session: Session, pack: Sequence[Message], name: str, most_bytes: int | None
) -> Confirmed:
    body = packed(pack)
    if most_bytes is not None and len(body) > most_bytes:
        return None
    for is_last in (False, True):
        try:
            answer = await session.publishing.basic_publish(
                body,
                routing_key=name,
                properties=spec.Basic.Properties(content_type=CONTENT_TYPE, delivery_mode=_KEPT_ON_DISK),
                mandatory=True,
                timeout=CONFIRM_TIMEOUT_S,
                wait=False,
            )
            return isinstance(answer, spec.Basic.Ack)
        except amqp.PublishError:
            # It came back: there is no such queue any more. Nobody has it, so it may be sent again.
            queues.forget(name)
            if is_last:
                return False
            await queues.need(pack[0].queue, pack[0].level)
        except amqp.DeliveryError:
            if is_last or not queues.is_new(name):
                return False  # the queue is full
            await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            return False  # this queue does not answer; others of the same call may
    return False
