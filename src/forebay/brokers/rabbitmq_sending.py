"""Packs to a RabbitMQ, each confirmed or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiormq import exceptions as amqp
from aiormq import spec

from forebay.brokers.packs import CONTENT_TYPE, packed
from forebay.brokers.port import Confirmed, Message
from forebay.brokers.rabbitmq_errors import failure
from forebay.brokers.rabbitmq_link import Session
from forebay.brokers.rabbitmq_queues import REFUSALS, Queues, dead_name, queue_name
from forebay.brokers.refusals import Refusals
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

CONFIRM_TIMEOUT_S: Final = 5.0
_AGAIN_S: Final = 0.1
_KEPT_ON_DISK: Final = 2


async def send(
    queues: Queues,
    session: Session,
    packs: Sequence[Sequence[Message]],
    refused: Refusals[tuple[str, int]],
    most_bytes: int | None = None,
) -> list[Confirmed]:
    """All on their way together, but for those of more than `most_bytes`; what became of each. Raises what aiormq does,
    and `DependencyError`; where a queue is `refused`, only if no other is asked for."""
    names: dict[tuple[str, int], str] = {}
    failed: BaseException | None = None
    for place in dict.fromkeys((pack[0].queue, pack[0].level) for pack in packs):
        await queues.need_dead()
        try:
            names[place] = await queues.need(*place)
        except REFUSALS as error:
            failed, words = error, failure(error, session.address).message
            if refused.note(place, words):
                names_of = fields(model=place[0])
                log.error(
                    "jobs for queue %s are not sent: %s", queue_name(session.address, *place), words, extra=names_of
                )
    if failed is not None and not names:
        raise failed
    sending = [
        _send(queues, session, pack, names.get((pack[0].queue, pack[0].level), ""), most_bytes) for pack in packs
    ]
    return await asyncio.gather(*sending)


async def bury(queues: Queues, session: Session, messages: Sequence[Message]) -> list[bool]:
    """Each by itself to the queue of dead letters; whether it was confirmed. Raises as `send`."""
    await queues.need_dead()
    name = dead_name(session.address)
    return await asyncio.gather(*[_bury(session, name, packed([message])) for message in messages])


async def _bury(session: Session, name: str, body: bytes) -> bool:
    properties = spec.Basic.Properties(content_type=CONTENT_TYPE, delivery_mode=_KEPT_ON_DISK)
    try:
        answer = await session.publishing.basic_publish(
            body, exchange=name, properties=properties, mandatory=True, timeout=CONFIRM_TIMEOUT_S, wait=False
        )
    except (amqp.DeliveryError, TimeoutError):
        return False
    return isinstance(answer, spec.Basic.Ack)


async def _send(
    queues: Queues, session: Session, pack: Sequence[Message], name: str, most_bytes: int | None
) -> Confirmed:
    if not name:
        return False
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
            try:
                await queues.need(pack[0].queue, pack[0].level)
            except REFUSALS:
                return False  # the next call says why; others of this one may be confirmed
        except amqp.DeliveryError:
            if is_last or not queues.is_new(name):
                return False  # the queue is full
            await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            return False  # this queue does not answer; others of the same call may
    return False
