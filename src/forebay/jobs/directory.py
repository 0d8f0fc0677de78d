"""The port by which processes that serve over HTTP learn what workers serve: `Directory`.

A worker announces itself and renews that; one that falls silent is no longer there after a few seconds. Of each model
the last announcement is kept, so that it is known while no worker has it. Errors are `DependencyError`, as for jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal, Protocol

import msgspec

from forebay.core.caching import CacheRules
from forebay.models.signature import Signature

SILENT_AFTER_S: Final = 5.0
"""A worker that has not renewed its announcement for so long is not counted on any more."""
RENEW_EVERY_S: Final = 1.5


class ServedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of a model as a worker tells of it; the names are those of `engine.client.EngineClient`."""

    name: str
    version: str
    signature: Signature
    digest: str = ""
    platform: str = ""
    labels: tuple[str, ...] = ()
    label_file: str = ""
    facts: dict[str, str] = {}
    max_batch_rows: int = 0
    streams: bool = False
    default_timeout_s: float = 30.0
    instances: int = 1
    max_queue_delay_ms: float = 0.0
    tuning: dict[str, Any] | None = None
    caching: CacheRules | None = None

    @property
    def form(self) -> str:
        """The same for all that take the same requests: model, version and signature, in 16 hex digits."""
        told = msgspec.msgpack.encode((self.name, self.version, self.signature))
        return blake2b(told, digest_size=8).hexdigest()


class Announced(msgspec.Struct, frozen=True, array_like=True):
    """The versions of one model at one worker. `order`: the greater it is, the later a worker told of these files."""

    order: int
    versions: tuple[ServedModel, ...]


def identity_of(versions: Sequence[ServedModel]) -> str:
    """The same as long as files and forms are, in 16 hex digits; what is measured may differ."""
    told = msgspec.msgpack.encode([(model.form, model.digest) for model in versions])
    return blake2b(told, digest_size=8).hexdigest()


class Known(msgspec.Struct, frozen=True):
    """What has been announced: by workers that are there, by their ids and then models, and last of all by model."""

    workers: Mapping[str, Mapping[str, Announced]]
    last: Mapping[str, Announced]


class Directory(Protocol):
    """What workers serve. A worker's id is its own, and new each time that it starts."""

    async def announce(self, worker: str, models: Sequence[ServedModel], gone: Sequence[str] = ()) -> None:
        """Tell, at once, all that a worker serves; it holds for `SILENT_AFTER_S`.

        gone: names of models that it serves no more and will not again: where no other worker has one, it is
        forgotten.
        """
        ...

    async def renew(self, worker: str) -> bool:
        """It is there still, and serves the same. False: it was given up; it must announce itself again."""
        ...

    async def withdraw(self, worker: str) -> None:
        """It is going, which is told at once. What it announced last is kept."""
        ...

    async def look(self) -> Known:
        """All that is known now."""
        ...

    def news(self) -> AsyncIterator[None]:
        """Something each time that there may be something new to look at, for as long as it is iterated; news may be
        lost. The first one comes when nothing can be missed any more, for the time being."""
        ...


class Standing(msgspec.Struct, frozen=True):
    """One version of a model as callers are to see it. `workers`: those that take requests in its form."""

    model: ServedModel
    workers: frozenset[str]
    order: int
    differs: tuple[Literal["signature", "digest"], ...] = ()
    """In what workers that have the same version differ."""


def standing(known: Known) -> dict[tuple[str, str], Standing]:
    """All versions, by name and version: those that some worker has, and of a model that none has, what was announced
    last. Where workers differ about one version, the newest announcement counts. Pure."""
    found: dict[tuple[str, str], list[tuple[int, str, ServedModel]]] = {}
    for worker, models in known.workers.items():
        for announced in models.values():
            for model in announced.versions:
                found.setdefault((model.name, model.version), []).append((announced.order, worker, model))
    stand = {place: _newest(offers) for place, offers in found.items()}
    alive = {name for name, _ in found}
    for name, announced in known.last.items():
        if name not in alive:
            for model in announced.versions:
                stand[name, model.version] = Standing(model, frozenset(), announced.order)
    return stand


def _newest(offers: Sequence[tuple[int, str, ServedModel]]) -> Standing:
    order, _, newest = max(offers, key=lambda offer: offer[:2])
    differs: list[Literal["signature", "digest"]] = []
    if any(model.signature != newest.signature for _, _, model in offers):
        differs.append("signature")
    if any(model.digest != newest.digest for _, _, model in offers):
        differs.append("digest")
    form = newest.form
    return Standing(
        newest, frozenset(worker for _, worker, model in offers if model.form == form), order, tuple(differs)
    )
