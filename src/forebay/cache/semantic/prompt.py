"""A text, or a whole chat, as what is compared: the system prompt apart, the turns one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

_TURN: Final = "\x1e"
_ROLE: Final = "\x1f"
_SYSTEM: Final = frozenset(("system", "developer"))


class Prompt(NamedTuple):
    """`system` belongs to the partition; `text` is kept, embedded and guarded."""

    system: str
    text: str


def prompt_of_text(text: str) -> Prompt:
    """A text alone."""
    return Prompt("", _plain(text))


def prompt_of_chat(messages: Sequence[Mapping[str, Any]]) -> Prompt | None:
    """A chat: every turn counts, not the last one alone ("yes, cancel it" says nothing without what went before).

    None where a message is anything but a role and a text: pictures and calls of tools are not compared.
    """
    system: list[str] = []
    turns: list[str] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str) or message.keys() - {"role", "content"}:
            return None
        if role in _SYSTEM:
            # Where it stands among the turns matters too.
            system.append(f"{len(turns)}{_ROLE}{_plain(content)}")
        else:
            turns.append(f"{_plain(role)}{_ROLE}{_plain(content)}")
    return Prompt(_TURN.join(system), _TURN.join(turns)) if turns else None


def turns_of(text: str) -> list[tuple[str, str]]:
    """The turns of a prompt's text, as role and content. A text alone is one turn without a role."""
    parts = (turn.partition(_ROLE) for turn in text.split(_TURN))
    return [(before, after) if separator else ("", before) for before, separator, after in parts]


def to_embed(text: str) -> str:
    """What the embedder is given."""
    return "\n".join(f"{role}: {content}" if role else content for role, content in turns_of(text))


def _plain(text: str) -> str:
    return text.replace(_TURN, " ").replace(_ROLE, " ")
