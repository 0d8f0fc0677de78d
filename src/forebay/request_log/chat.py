"""A row as a chat, the form that fine-tuning takes: what was asked, and the answer as the assistant's turn."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array
from forebay.request_log.reading import Found

_MEND = "export as jsonl, npz or parquet"


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """A turn."""

    role: str
    content: str


class Conversation(msgspec.Struct):
    """A chat as it is sent to a model that takes one."""

    messages: list[Message]


_list = msgspec.json.Decoder(list[Message])
_object = msgspec.json.Decoder(Conversation)


def chat_of(one: Found) -> dict[str, Any]:
    """`{"messages": [...]}`. Raises `SetupError` where the model takes no text, or gives neither a text nor a class."""
    texts = [array for array in one.row.inputs.values() if array.dtype == object]
    if len(one.row.inputs) != 1 or len(texts) != 1 or texts[0].size != 1:
        raise SetupError(f"model {one.origin.model} does not take one text a row, so there is no chat: {_MEND}")
    messages = [msgspec.to_builtins(message) for message in _asked(_text(texts[0]))]
    return {"messages": [*messages, {"role": "assistant", "content": _answer(one)}]}


def _asked(text: str) -> list[Message]:
    """The turns of a text that is a chat in JSON: its messages, or an object that has them. Else one of a user."""
    start = text.lstrip()[:1]
    try:
        if start == "[":
            return _list.decode(text) or [Message("user", text)]
        if start == "{":
            return _object.decode(text).messages or [Message("user", text)]
    except msgspec.MsgspecError:
        pass
    return [Message("user", text)]


def _answer(one: Found) -> str:
    """The text of the only output, its pieces joined; or the label of its highest class."""
    outputs = list(one.row.outputs.values())
    if len(outputs) == 1:
        array = outputs[0]
        if array.dtype == object:
            return _text(array)
        labels = one.origin.labels
        if labels and array.size == len(labels):
            return labels[int(np.argmax(array))]
    raise SetupError(
        f"model {one.origin.model} answers with neither one text nor one class that has a label (its setting labels), "
        f"so there is no chat: {_MEND}"
    )


def _text(array: Array) -> str:
    return b"".join(array.reshape(-1).tolist()).decode("utf-8", "replace")
