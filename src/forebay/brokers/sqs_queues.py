"""What Forebay has in SQS: a queue for each model and level, and one for what cannot be read.

Queues have no redrive policy: it would take a job away after so many receives, and jobs are given back for reasons
that are not theirs. What cannot be read is sent to the queue of dead letters by who received it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from forebay.brokers.refusals import Refusals
from forebay.brokers.sqs_errors import code_of, is_missing
from forebay.brokers.sqs_link import SqsLink
from forebay.brokers.sqs_url import SqsAddress

log = logging.getLogger("forebay.jobs")

LEVELS: Final = ("high", "normal", "low")
RETENTION_S: Final = 14 * 86400
"""The most that SQS keeps anything. What it throws away then is published anew from its record."""
FEWEST_RECEIVES: Final = 1000
"""A redrive policy, which others may have made, is warned of below it; SQS takes no larger number."""
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAME_LENGTH: Final = 80
_SMALL_BYTES: Final = 256 << 10
"""Of a message and of a call, where nothing else is said."""

Place = tuple[str, int]
"""A queue of the port's, and its level."""


class Queue(NamedTuple):
    """One that is there. `most_bytes`: of a message, and of all messages of a call."""

    url: str
    most_bytes: int


def queue_name(address: SqsAddress, place: Place) -> str:
    """Where messages of a model's level wait. What SQS does not allow in a name is written with a hash of the whole."""
    model, level = place
    end = f"-{LEVELS[level]}{'.fifo' if address.fifo else ''}"
    room = _NAME_LENGTH - len(address.prefix) - 1 - len(end)
    if _SAFE.fullmatch(model) is None or len(model) > room:
        digest = hashlib.sha256(model.encode()).hexdigest()[:12]
        model = f"{re.sub('[^A-Za-z0-9_-]', '_', model)[: room - 13]}-{digest}"
    return f"{address.prefix}-{model}{end}"


def dead_name(address: SqsAddress) -> str:
    """The queue of what cannot be read."""
    return f"{address.prefix}-dead"


class Queues:
    """Makes sure of queues, each once."""

    def __init__(self, link: SqsLink) -> None:
        self._link, self._address = link, link.address
        self._known: dict[str, Queue] = {}
        self._asking: dict[str, asyncio.Task[Queue]] = {}
        self.unsent = Refusals[Place]()
        """Those that nothing could be sent to while others took what they were sent."""
        self._small = set[Queue]()
        """Those of which it was said that not every job fits."""

    async def need(self, place: Place) -> Queue:
        """One that is there. Raises as `SqsLink.call`."""
        fifo = {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
        return await self._need(queue_name(self._address, place), fifo if self._address.fifo else {})

    async def need_dead(self) -> Queue:
        """That of what cannot be read. Raises as `need`."""
        return await self._need(dead_name(self._address), {})

    def forget(self, place: Place) -> None:
        """It is not there any more."""
        self._known.pop(queue_name(self._address, place), None)

    def is_small_for(self, queue: Queue, id: str) -> None:
        """Say it, of each queue once."""
        if queue not in self._small:
            self._small.add(queue)
            log.warning(
                "a message of %s may have %d bytes, which is too little for job %s: such jobs travel by their ids "
                "alone; raise its MaximumMessageSize",
                queue.url,
                queue.most_bytes,
                id,
            )

    async def _need(self, name: str, attributes: Mapping[str, str]) -> Queue:
        """Whoever comes while it is asked for waits for that."""
        if name in self._known:
            return self._known[name]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = self._link.begin(self._found(name, attributes))
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        return await self._link.outcome(asking)

    async def _found(self, name: str, attributes: Mapping[str, str]) -> Queue:
        url = await self._url(name, attributes)
        answer = await self._link.call("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
        found: Mapping[str, Any] = answer.get("Attributes", {})
        _warn_of_redrive(name, found.get("RedrivePolicy", ""))
        queue = self._known[name] = Queue(url, int(found.get("MaximumMessageSize", _SMALL_BYTES)))
        return queue

    async def _url(self, name: str, attributes: Mapping[str, str]) -> str:
        try:
            return str((await self._link.call("GetQueueUrl", QueueName=name))["QueueUrl"])
        except Exception as error:
            if not is_missing(error) or not self._address.create:
                raise
        wanted = {"MessageRetentionPeriod": str(RETENTION_S), **attributes}
        try:
            return str((await self._link.call("CreateQueue", QueueName=name, Attributes=wanted))["QueueUrl"])
        except Exception as error:
            if code_of(error) not in ("QueueNameExists", "QueueAlreadyExists"):
                raise
        # Somebody else has just made it otherwise.
        return str((await self._link.call("GetQueueUrl", QueueName=name))["QueueUrl"])


def _warn_of_redrive(name: str, policy: str) -> None:
    try:
        most = int(json.loads(policy or "{}").get("maxReceiveCount", FEWEST_RECEIVES))
    except (ValueError, TypeError, AttributeError):
        return
    if most < FEWEST_RECEIVES:
        log.warning(
            "queue %s has a redrive policy with maxReceiveCount %d: a job that was given back so often goes to dead "
            "letters; take the policy away, or make it %d",
            name,
            most,
            FEWEST_RECEIVES,
        )
