"""Whole answers to bodies that came before, byte for byte: what a second caller sends need not even be decoded.

It is only a shortcut to an entry of the cache: what is remembered here goes when its entry goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from forebay.api.auth import ANONYMOUS
from forebay.api.cache_control import ask_of
from forebay.cache.entry import Entry
from forebay.core.caching import CacheAsk, CacheNote, Use
from forebay.core.request import Request
from forebay.engine.cached import CachedEngine
from forebay.jobs.record import JobSpec

MEMO_BYTES = 500
"""Of what is remembered beside the two bodies, roughly."""
_MOST_FORMS = 64
_USES: dict[str, Use] = {"refresh": "refresh", "off": "off", "only": "only"}

Form = tuple[str, bytes | None, bytes | None]
"""On what the meaning of a body depends beside its model: tenant, content type, header length."""


class Memo:
    """An answer as it is written: `head` from the value of content-length up to that of age, `body`."""

    __slots__ = ("body", "entry", "head")

    def __init__(self, entry: Entry, body: bytes) -> None:
        self.entry = entry
        self.head = b"%d\r\nx-cache: exact\r\nx-cache-entry: %b\r\nage: " % (len(body), entry.told_id().encode())
        self.body = body


class Recall:
    """What is remembered for one endpoint."""

    __slots__ = ("_clock", "_digest", "_engine", "_forms", "_memory", "any", "on_first", "usual")

    def __init__(self, engine: CachedEngine) -> None:
        self._engine = engine
        self._memory = engine.memory
        self._clock = engine.clock
        self.any = False
        """Whether anything was ever remembered: where no request comes twice, bodies need not be looked up."""
        self.on_first: Callable[[], None] = lambda: None
        """Called once, when there is."""
        self.usual: dict[bytes, Any] = {}
        """For callers without a key, and bodies without special headers."""
        self._forms: dict[Form, dict[bytes, Any]] = {}
        self._digest = engine.digest
        """Of the model's files that the answers come from."""

    def ask(self, headers: Iterable[tuple[bytes, bytes]], tenant: str) -> CacheAsk:
        """What a caller wants of the cache. Raises `RequestError`."""
        return ask_of(headers, "" if tenant == ANONYMOUS else tenant)

    def ask_of_job(self, spec: JobSpec) -> CacheAsk:
        """What a job wants of the cache."""
        use = _USES.get(spec.cache, "use")
        return CacheAsk("" if spec.tenant == ANONYMOUS else spec.tenant, use, spec.max_age_s, spec.tags)

    def knows(self, request: Request) -> bool:
        """Whether an answer is here that it will be given."""
        return self._engine.knows(request)

    def find(self, body: bytes | bytearray, form: Form | None, arrived: float) -> Memo | None:
        """The answer to a body, counted as served; None: it is not known, or is better looked up. `form` None: the
        usual one. `arrived`: monotonic seconds."""
        if type(body) is not bytes or not self._of_these_files():
            return None
        table = self.usual if form is None else self._forms.get(form)
        memo: Memo | None = table.get(body) if table is not None else None
        if memo is None or arrived >= memo.entry.refresh_at:
            return None
        self._memory.touch(memo.entry)
        self._engine.served(memo.entry, self._clock() - arrived)
        return memo

    def keep(self, body: bytes | bytearray, form: Form | None, note: CacheNote, answer: bytes) -> None:
        """Remember what was just answered from the cache."""
        if type(body) is not bytes or not isinstance(note.kept, Entry) or note.outcome != "exact":
            return
        if not self._of_these_files():
            return
        if form is None:
            table = self.usual
        elif form in self._forms or len(self._forms) < _MOST_FORMS:
            table = self._forms.setdefault(form, {})
        else:
            return
        if not self.any:
            self.any = True
            self.on_first()
        memo = Memo(note.kept, answer)
        self._memory.remember(note.kept, table, body, memo, len(body) + len(answer) + MEMO_BYTES)

    def _of_these_files(self) -> bool:
        """Whether it is known which files the model has. Workers may come with others: then what was remembered is
        forgotten, and looked up under keys of these."""
        digest = self._engine.inner.digest
        if digest is not self._digest and digest != self._digest:
            self.usual.clear()
            self._forms.clear()
            self._digest = digest
        return bool(digest)
