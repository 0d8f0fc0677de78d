"""Packs to an SQS: ten a call, several calls at once, each pack confirmed or not."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from forebay.brokers.packs import packed
from forebay.brokers.port import Message
from forebay.brokers.sqs_errors import FAILURES, failure, is_missing
from forebay.brokers.sqs_link import SqsLink
from forebay.brokers.sqs_queues import Place, Queues, queue_name
from forebay.brokers.sqs_text import written
from forebay.core.errors import DependencyError
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

ENTRIES: Final = 10
"""Most of one call."""
_AT_ONCE: Final = 16
"""Calls under way, of one call of ours."""
_AGAIN_S: Final = 0.1
"""When what SQS itself failed to take is sent once more."""

Entry = tuple[int, str]
"""Which pack it is, and the body of its message."""


async def send(link: SqsLink, queues: Queues, packs: Sequence[Sequence[Message]]) -> list[bool]:
    """Whether each was confirmed. Raises `DependencyError` where no call came through at all."""
    places: defaultdict[Place, list[int]] = defaultdict(list)
    for at, pack in enumerate(packs):
        places[pack[0].queue, pack[0].level].append(at)
    turns = asyncio.Semaphore(_AT_ONCE)
    sending = [_to_place(link, queues, place, [(at, packs[at]) for at in own], turns) for place, own in places.items()]
    confirmed = [False] * len(packs)
    failures: dict[Place, DependencyError] = {}
    came_through = False
    for place, answers in zip(places, await asyncio.gather(*sending), strict=True):
        for answer in answers:
            if isinstance(answer, DependencyError):
                failures[place] = answer
                continue
            came_through = True
            for at in answer:
                confirmed[at] = True
    if failures and not came_through:
        raise next(iter(failures.values()))
    for place, error in failures.items():
        if queues.unsent.note(place, error.message):
            name, names = queue_name(link.address, place), fields(model=place[0])
            log.error("jobs for queue %s are not sent: %s", name, error.message, extra=names)
    return confirmed


async def bury(link: SqsLink, queues: Queues, message: Message) -> bool:
    """To the queue of dead letters; whether that was confirmed. Raises `DependencyError`."""
    try:
        dead = await queues.need_dead()
        body = written(packed([message]), dead.most_bytes)
        if body is None:
            log.error("%s takes no message that is so large as one that is no job; it is dropped", dead.url)
            return True
        entry = {"Id": "0", "MessageBody": body}
        answer = await link.call("SendMessageBatch", QueueUrl=dead.url, Entries=[entry])
    except FAILURES as error:
        raise failure(error, link.address) from error
    return bool(answer.get("Successful"))


async def _to_place(
    link: SqsLink,
    queues: Queues,
    place: Place,
    packs: Sequence[tuple[int, Sequence[Message]]],
    turns: asyncio.Semaphore,
) -> list[set[int] | DependencyError]:
    """Of each call, which packs were confirmed, or why none."""
    try:
        queue = await queues.need(place)
    except FAILURES as error:
        return [failure(error, link.address)]
    except DependencyError as error:
        return [error]
    entries: list[Entry] = []
    for at, pack in packs:
        body = written(packed(pack), queue.most_bytes)
        if body is None:
            log.error(
                "job %s is larger than a message of %s may be (%d bytes)", pack[0].id, queue.url, queue.most_bytes
            )
        else:
            entries.append((at, body))

    async def call(batch: list[Entry]) -> set[int] | DependencyError:
        async with turns:
            return await _in_one_call(link, queues, place, batch)

    return await asyncio.gather(*map(call, _batches(entries, queue.most_bytes))) if entries else [set()]


def _batches(entries: Sequence[Entry], most_bytes: int) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    nbytes = 0
    for entry in entries:
        if batch and (len(batch) == ENTRIES or nbytes + len(entry[1]) > most_bytes):
            yield batch
            batch, nbytes = [], 0
        batch.append(entry)
        nbytes += len(entry[1])
    if batch:
        yield batch


async def _in_one_call(
    link: SqsLink, queues: Queues, place: Place, batch: Sequence[Entry]
) -> set[int] | DependencyError:
    """Those that were confirmed. What SQS failed to take, or what came to a queue that is no more, is sent again."""
    waiting, confirmed = {str(at): body for at, body in batch}, set[int]()
    for is_last in (False, True):
        try:
            queue = await queues.need(place)
            answer = await link.call("SendMessageBatch", QueueUrl=queue.url, Entries=_entries(link, waiting))
        except DependencyError as error:
            return confirmed or error
        except FAILURES as error:
            if not is_last and is_missing(error):
                queues.forget(place)
                continue
            return confirmed or failure(error, link.address)
        for one in answer.get("Successful", ()):
            confirmed.add(int(one["Id"]))
            waiting.pop(one["Id"], None)
        for one in answer.get("Failed", ()):
            if one.get("SenderFault"):
                log.error("%s refuses a message: %s: %s", queue.url, one.get("Code"), one.get("Message", ""))
                waiting.pop(one["Id"], None)
        if not waiting:
            break
        if not is_last:
            await asyncio.sleep(_AGAIN_S)
    return confirmed


def _entries(link: SqsLink, waiting: dict[str, str]) -> list[dict[str, Any]]:
    """In a queue that is FIFO each message is a group of its own, so that none waits for another; and one that is sent
    anew is not taken for the one before."""
    entries: list[dict[str, Any]] = [{"Id": id, "MessageBody": body} for id, body in waiting.items()]
    if link.address.fifo:
        for entry in entries:
            entry["MessageGroupId"] = entry["MessageDeduplicationId"] = uuid.uuid4().hex
    return entries
