"""What is held of an SQS: for how long, and how it is kept, given back or done with, ten messages a call."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forebay.brokers.packs import Pack
from forebay.brokers.sqs_errors import FAILURES, failure, is_away, setup_words
from forebay.brokers.sqs_link import SqsLink
from forebay.brokers.sqs_queues import Place
from forebay.brokers.sqs_sending import ENTRIES
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.jobs")

LONGEST_S: Final = 12 * 3600
"""SQS holds a message no longer, however often it is told to."""


@dataclass(slots=True, eq=False)
class Hold:
    """A message that this process has until `until_s`, by the clock of who holds. What is done with its receipt after
    that might be done to somebody else, so nothing is."""

    place: Place
    url: str
    receipt: str
    until_s: float


def visibility_s(lease_s: float) -> int:
    """SQS counts in whole seconds."""
    return min(LONGEST_S, max(1, math.ceil(lease_s)))


async def delete(link: SqsLink, packs: Sequence[Pack]) -> None:
    """They are done with. What cannot be deleted comes again. Raises `DependencyError`."""
    await _change(link, "DeleteMessageBatch", packs, {})


async def show(link: SqsLink, packs: Sequence[Pack]) -> None:
    """They are for anybody at once. Raises `DependencyError`."""
    await _change(link, "ChangeMessageVisibilityBatch", packs, {"VisibilityTimeout": 0})


async def hold(link: SqsLink, packs: Sequence[Pack], lease_s: float, clock: Callable[[], float]) -> None:
    """They are ours for so long from now. One that SQS does not keep for us is not ours any more. Raises
    `DependencyError`."""
    seconds = visibility_s(lease_s)
    until_s = clock() + seconds
    kept = await _change(link, "ChangeMessageVisibilityBatch", packs, {"VisibilityTimeout": seconds})
    for pack in packs:
        pack.owner.until_s = until_s if pack in kept else 0.0


async def _change(link: SqsLink, name: str, packs: Sequence[Pack], more: dict[str, Any]) -> set[Pack]:
    """Those for which it was done."""
    answers = await asyncio.gather(
        *(_in_one_call(link, name, url, batch, more) for url, batch in _batches(packs)), return_exceptions=True
    )
    done: set[Pack] = set()
    for answer in answers:
        if isinstance(answer, BaseException):
            if not isinstance(answer, FAILURES):
                raise answer
            raise failure(answer, link.address) from answer
        done |= answer
    return done


async def _in_one_call(link: SqsLink, name: str, url: str, batch: Sequence[Pack], more: dict[str, Any]) -> set[Pack]:
    entries = [{"Id": str(at), "ReceiptHandle": pack.owner.receipt, **more} for at, pack in enumerate(batch)]
    try:
        answer = await link.call(name, QueueUrl=url, Entries=entries)
    except FAILURES as error:
        words = setup_words(error, link.address)
        if words is not None and not is_away(error) and link.refused.note((name, url), words):
            names = fields(model=batch[0].owner.place[0])
            told = "messages of %s come again when their leases end, whatever became of them: %s"
            log.error(told, url, words, extra=names)
        raise
    for one in answer.get("Failed", ()):
        log.debug("%s: %s: %s", name, one.get("Code"), one.get("Message", ""))
    return {batch[int(one["Id"])] for one in answer.get("Successful", ())}


def _batches(packs: Sequence[Pack]) -> Iterator[tuple[str, list[Pack]]]:
    by_url: defaultdict[str, list[Pack]] = defaultdict(list)
    for pack in packs:
        by_url[pack.owner.url].append(pack)
    for url, own in by_url.items():
        for begin in range(0, len(own), ENTRIES):
            yield url, own[begin : begin + ENTRIES]
