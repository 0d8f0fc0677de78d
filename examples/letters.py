"""A small model that streams: it writes text letter by letter, from how often letters follow each other in its corpus.

forebay serve examples/letters.py:Letters
curl -N localhost:8000/v2/models/letters/generate_stream -d '{"text_input": "the ", "max_letters": 60}'
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Generator

import forebay
from forebay.core.tensors import Array

CORPUS = (
    "the water comes down from the hills and waits in the basin above the mill until there is enough of it to turn "
    "the wheel then the gate is lifted and all of it goes at once and the stones turn and the grain is ground and "
    "when the basin is empty the gate is closed and the water gathers again for the next turn of the wheel "
)
ORDER = 3
"""Letters that the next one depends on."""
LETTER_MS = 2.0
"""Time that a letter takes, whatever the rows of the batch: as a language model on an accelerator."""


class Letters(forebay.Model):
    """`max_letters` letters that may follow `text_input`, the same for the same text. Rows end at different times."""

    inputs = {"text_input": ("BYTES", []), "max_letters": ("INT32", [])}
    outputs = {"text_output": ("BYTES", [])}
    max_batch_rows = 16

    def load(self, device: str) -> None:
        """Count which letters follow which."""
        self.follows: dict[str, Counter[str]] = defaultdict(Counter)
        text = CORPUS * 2
        for size in range(ORDER + 1):
            for place in range(size, len(CORPUS) + size):
                self.follows[text[place - size : place]][text[place]] += 1

    def examples(self) -> list[dict[str, object]]:
        """What is measured at load: a short text."""
        return [{"text_input": "the ", "max_letters": 4}]

    def predict(
        self, text_input: Array, max_letters: Array
    ) -> Generator[list[forebay.Partial], frozenset[int] | None, None]:
        """`text_input`: bytes [rows]; `max_letters`: int32 [rows]. Yields the next letter of each row that goes on."""
        texts = [bytes(text).decode("utf-8", "replace").lower() for text in text_input.tolist()]
        dice = [random.Random(text) for text in texts]
        left = dict(enumerate(max_letters.tolist()))
        ended = [row for row, letters in left.items() if letters <= 0]
        gone: Collection[int] = ()
        if ended:
            gone = (yield [forebay.Partial(row, b"", last=True) for row in ended]) or ()
        while left := {row: letters for row, letters in left.items() if letters > 0 and row not in gone}:
            time.sleep(LETTER_MS / 1e3)
            step = []
            for row in left:
                letter = self.next_letter(texts[row], dice[row])
                texts[row] += letter
                left[row] -= 1
                step.append(forebay.Partial(row, letter, last=left[row] == 0))
            gone = (yield step) or ()  # a plain `for` loop, as in a test, sends None

    def next_letter(self, text: str, dice: random.Random) -> str:
        """One that follows the longest ending of `text` that the corpus knows."""
        for size in range(ORDER, -1, -1):
            counts = self.follows.get(text[len(text) - size :] if size else "")
            if counts:
                return dice.choices(list(counts), list(counts.values()))[0]
        raise AssertionError("the empty ending is always known")
