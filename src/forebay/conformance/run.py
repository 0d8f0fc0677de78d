"""Finds out what is under test, then runs checks. I/O happens only in the `exchange` that is passed in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from forebay.conformance.answers import document
from forebay.conformance.check import Check, Got, Result, Sent, Violation, judge
from forebay.conformance.subject import (
    JSON_TYPE,
    Subject,
    inputs_from_example,
    inputs_from_metadata,
    read_extensions,
    settle,
)
from forebay.core.errors import SetupError

Exchange = Callable[[Sent], Got]


def discover(exchange: Exchange, model: str | None, example: Any = None, may_unload: bool = False) -> Subject:
    """Reads metadata, builds a valid request and sends it twice.

    `model` None: the only one of the repository index. `example`: an inference request whose inputs to use. Raises
    `SetupError` where the server does not answer or wants another key, the model is not known, or the example is none.
    """
    exchange = _let_in(exchange)
    server = exchange(Sent("GET", "/v2"))
    if server.failure:
        raise SetupError(f"no server answers: {server.failure}")
    subject = Subject(model or _only_model(exchange), read_extensions(server), may_unload=may_unload)
    got = exchange(Sent("GET", subject.path))
    try:
        subject.metadata = document(got)
    except Violation:
        subject.trouble = f"the model's metadata cannot be had: {got.show()}"
        if got.status == 404 and example is None:
            raise SetupError(
                f"the server has no model {subject.model!r}: {got.show()}; name one with --model"
            ) from None
    try:
        subject.given = example is not None
        subject.inputs = inputs_from_metadata(subject) if example is None else inputs_from_example(example)
    except ValueError as error:
        if example is not None:
            raise SetupError(f"the example request cannot be used: {error}") from None
        subject.trouble = subject.trouble or f"{error}; give --inputs FILE"
        return subject
    settle(subject, exchange(subject.infer()), exchange(subject.infer()))
    return subject


def _let_in(exchange: Exchange) -> Exchange:
    """The same, but `SetupError` where the server refuses who asks: every check would only say so again."""

    def checked(sent: Sent) -> Got:
        got = exchange(sent)
        if got.status == 401:
            raise SetupError(
                f"the server refuses {sent.method} {sent.path} without a key that it knows: {got.show()}; give one "
                "with --api-key or FOREBAY_API_KEY"
            )
        return got

    return checked


def _only_model(exchange: Exchange) -> str:
    got = exchange(Sent("POST", "/v2/repository/index", (JSON_TYPE,), b"{}"))
    try:
        entries = json.loads(got.body) if got.status == 200 else []
        names = list(dict.fromkeys(str(entry["name"]) for entry in entries if entry.get("state") == "READY"))
    except (ValueError, KeyError, TypeError, AttributeError):
        names = []
    if len(names) != 1:
        found = f"the server lists {', '.join(names)}" if names else "the server does not list its models"
        raise SetupError(f"which model? {found}; name one with --model")
    return names[0]


def run(checks: Iterable[Check], subject: Subject, exchange: Exchange) -> Iterator[Result]:
    """The results, one by one."""
    for one in checks:
        yield judge(one, subject, exchange)
