"""A tokenizer made of the transfer set, where the teacher has none to share: its frequent words, and letters for the
rest. Pure but for the library: the same texts give the same vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

_UNKNOWN = "[UNK]"
_MOST_WORDS = 30_000
_LEAST_COUNT = 2
"""Words that occur once teach nothing about texts that are not in the set."""
_LETTERS = 1_000
_LONGEST = 100


def vocabulary(texts: Sequence[Sequence[str]]) -> dict[str, int]:
    """Words, most frequent first, then letters at the beginning and within words."""
    counts = Counter(word for text in texts for word in text)
    letters = Counter(letter for word, count in counts.items() for letter in word for _ in range(min(count, 5)))
    ranked = sorted(((count, word) for word, count in counts.items() if count >= _LEAST_COUNT), key=_rank)
    frequent = sorted(((count, letter) for letter, count in letters.items()), key=_rank)[:_LETTERS]
    entries = [_UNKNOWN, *(word for _, word in ranked[:_MOST_WORDS])]
    entries += [form for _, letter in frequent for form in (letter, f"##{letter}")]
    return {entry: place for place, entry in enumerate(dict.fromkeys(entries))}


def _rank(entry: tuple[int, str]) -> tuple[int, str]:
    return -entry[0], entry[1]


def tokenizer_of(texts: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer` in the manner of BERT's: lower case, words and signs, greedy from the front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    normalizer, cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    parted = [[word for word, _ in cut.pre_tokenize_str(normalizer.normalize_str(text))] for text in texts]
    tokenizer = Tokenizer(
        models.WordPiece(vocab=vocabulary(parted), unk_token=_UNKNOWN, max_input_chars_per_word=_LONGEST)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
    return tokenizer
