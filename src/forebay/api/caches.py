"""The answer cache of one server, from its settings, and its life."""

from __future__ import annotations

from forebay.brokers.redis_link import RedisLink
from forebay.cache.answer_cache import AnswerCache
from forebay.cache.redis_shared import RedisSharedCache
from forebay.cache.semantic.redis_index import RedisIndex
from forebay.cache.shared_tier import SharedTier
from forebay.core.settings import CacheSettings
from forebay.telemetry.metrics import Metrics


class Caches:
    """What all models of a server share. `start` it in a running event loop, then `close` it."""

    def __init__(self, settings: CacheSettings, metrics: Metrics, jobs_store: str | None) -> None:
        """`jobs_store`: the URL of the store of jobs, where one is named: answers are shared there, unless the settings
        name another. One that is started here is this machine's alone, and is left to the jobs."""
        self.answers = AnswerCache(settings.memory_bytes, settings.max_entry_bytes)
        metrics.cache = self.answers.metrics
        self._settings = settings
        self._url = (settings.store or jobs_store) if settings.shared == "auto" else None
        self._link: RedisLink | None = None
        self.texts: RedisIndex | None = None
        """The texts of semantic caches in the store, once it is started; None: there is none. It is there whether a
        model of this process uses it or not: answers of others may be forgotten here too."""

    def start(self) -> None:
        """Before the first model is published."""
        if self._url is None or self._link is not None:
            return
        settings, answers = self._settings, self.answers
        self._link = RedisLink(self._url)
        store = RedisSharedCache(self._link, settings.store_bytes)
        answers.tier = SharedTier(store, settings.store_timeout_ms / 1e3, answers.clock, answers.metrics)
        answers.tier.start(answers.forget)
        answers.texts = self.texts = RedisIndex(self._link)

    async def close(self) -> None:
        """Finish what is on its way to the store."""
        if self.answers.tier is not None:
            await self.answers.tier.close()
        if self._link is not None:
            await self._link.close()
