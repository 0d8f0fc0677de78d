"""A vector for each token and each pair of neighbours, their mean, and a small network on it: for classes of texts.

Tokens come of a `tokenizer.json`, or of the words of the transfer set where there is none. The network is as in
fastText (arXiv 1607.01759), with a hidden layer; with `spans` it also sees what is said most clearly anywhere in the
text by three tokens on end, as in Kim's networks (arXiv 1408.5882). Tokens that are rare in the transfer set mean
nothing, unless vectors were given for all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forebay.core.errors import SetupError
from forebay.core.tensors import Array, as_bytes
from forebay.distill.students import text_model, words
from forebay.distill.students.port import Module, Subject, described, is_text, needed, takes_tokens
from forebay.distill.students.vectors import of_width, read_vectors
from forebay.models.signature import Signature, TensorSpec
from forebay.optimize.samples import MASK, Row

_WIDTH, _HIDDEN, _SPANS = 128, 128, 128
_SMALL = 0.1
"""Spread of the first vectors. What looks at spans is shown them as large as its own weights are meant for."""
_LEAST_TOKEN, _LEAST_PAIR = 2, 3
"""What occurs less often in the transfer set is not learned."""
_PLACES = 1 << 17
"""Where two neighbours fall; some fall together."""
_FACTOR = 1_000_003
_MOST_IDS = 1 << 22
"""A larger id is no token of any vocabulary."""
_NEVER = -1e4
"""Of a span about no token: less than any feature."""
_DROPOUT = 0.3
_LEFT_OUT = 0.2
"""Share of tokens that are left out while it learns, each time others."""
_IDS = "input_ids"


def check_texts(kind: str, signature: Signature) -> None:
    """Raises `SetupError` where rows are neither texts nor tokens."""
    if not is_text(signature) and not takes_tokens(signature):
        raise SetupError(
            f"--student {kind} is for texts (one BYTES input) or tokens (input_ids); the teacher takes "
            f"{described(signature)}; use cnn, linear or tree, or file.py:factory"
        )


class StaticEmbedding:
    """See `Network`. `spans`: it looks at three tokens on end, too. `vectors`: a folder with a vector for each token,
    which it begins with."""

    def __init__(self, subject: Subject, *, spans: bool = False, vectors: Path | None = None) -> None:
        signature = subject.signature
        self._subject, self._text, self._spans, self._vectors = subject, is_text(signature), spans, vectors
        self._kind = "text-cnn" if spans else "static-embedding"
        check_texts(self._kind, signature)
        self.about, self.rate, self.batch, self.epochs = "", 1e-3, 64, 10 if spans else 15
        axis = (-1,)
        tokens = (TensorSpec(_IDS, "INT64", axis), TensorSpec(MASK, "INT64", axis))
        self.tensors: Sequence[TensorSpec] = tokens if self._text else signature.inputs
        self._tokenizer: Any = None

    def made(self, rows: Sequence[Row]) -> Module:
        """See `Network.made`."""
        if self._text:
            self._tokenizer = self._opened(rows)
        table = None if self._vectors is None else self._table(self._vectors)
        found = seen([_used(row) for row in self.prepare(rows)], table)
        if not found.token_count:
            raise SetupError(
                f"no token occurs {_LEAST_TOKEN} times in the transfer set; give more rows, or look at the tokenizer"
            )
        self.about = (
            f"{found.token_count:,} tokens and {found.pair_count:,} pairs, {_WIDTH} numbers each; "
            f"{f'{_SPANS} of spans; ' if self._spans else ''}{_HIDDEN} hidden"
        )
        return _module(found, self._subject.target.width, [spec.name for spec in self.tensors], spans=self._spans)

    def prepare(self, rows: Sequence[Row]) -> list[Row]:
        """See `Network.prepare`."""
        if not self._text:
            return list(rows)
        texts = [_text_of(row) for row in rows]
        found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return [_row(encoding.ids) for encoding in found]

    def write(self, folder: Path, graph: str) -> str:
        """See `Network.write`."""
        if not self._text:
            return graph
        inner = folder / text_model.GRAPH_FILE
        shutil.move(folder / graph, inner)
        self._tokenizer.save(str(folder / text_model.TOKENIZER_FILE))
        return text_model.write(folder, self._subject, self.tensors)

    def _table(self, folder: Path) -> Array:
        table = read_vectors(folder)
        known = None if self._tokenizer is None else self._tokenizer.get_vocab_size()
        if known is not None and known > len(table):
            raise SetupError(
                f"--vectors {folder}: it has {len(table):,} vectors and the tokenizer {known:,} tokens; they belong to "
                "each other: give the folder's own tokenizer.json, --tokenizer"
            )
        return of_width(table, _WIDTH, _SMALL)

    def _opened(self, rows: Sequence[Row]) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise needed(self._kind, "torch,text,optimize", error) from None
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        file = self._subject.tokenizer
        if file is None:
            tokenizer = words.tokenizer_of([_text_of(row) for row in rows])
        else:
            try:
                tokenizer = tokenizers.Tokenizer.from_file(str(file))
            except Exception as error:  # the library raises plain Exception
                raise SetupError(f"--tokenizer {file}: {error}") from None
        tokenizer.enable_truncation(self._subject.max_tokens)
        tokenizer.no_padding()
        return tokenizer


def _text_of(row: Row) -> str:
    (value,) = row.values()
    return as_bytes(value.reshape(-1)[0]).decode("utf-8", "replace")


def _row(ids: Sequence[int]) -> Row:
    """A text without a token is one that is masked: a tensor has no axis of 0."""
    found = np.array(ids or [0], np.int64)
    return {_IDS: found, MASK: np.full(len(found), 1 if ids else 0, np.int64)}


@dataclass(frozen=True)
class _Seen:
    """What the transfer set has often enough to learn from. `tokens`: id to place, from 1 on; the last entry, for all
    other ids, is 0. `pairs`: from where two places fall to their row; 0: they are not learned. `vectors`: of the
    tokens, in their order, to begin with.
    """

    tokens: Array
    pairs: Array
    vectors: Array | None = None

    @property
    def token_count(self) -> int:
        """So many have a vector."""
        return int(self.tokens.max(initial=0))

    @property
    def pair_count(self) -> int:
        """So many have a vector."""
        return int(self.pairs.max(initial=0))


def seen(texts: Sequence[Array], vectors: Array | None = None) -> _Seen:
    """What is learned of these texts, given as ids. Tokens and pairs that are rare teach only which text this is; where
    vectors are given, float32 [ids, width], a token means something without being seen.
    """
    most = _MOST_IDS if vectors is None else len(vectors)
    ids = [text[(text >= 0) & (text < most)] for text in texts]
    if vectors is None:
        counts = np.bincount(np.concatenate(ids)) if ids else np.zeros(0, np.int64)
        tokens = _numbered(np.append(counts, 0) >= _LEAST_TOKEN)
    else:
        tokens = _numbered(np.arange(most + 1) < most)
    places = np.zeros(_PLACES + 1, np.int64)
    for text in ids:
        here = tokens[text]
        first, second = here[:-1], here[1:]
        both = (first > 0) & (second > 0)
        np.add.at(places, (first[both] * _FACTOR + second[both]) % _PLACES + 1, 1)
    return _Seen(tokens, _numbered(places >= _LEAST_PAIR), vectors)


def _numbered(kept: Array) -> Array:
    """1, 2, ... for those that are kept, 0 for the others."""
    return np.where(kept, np.cumsum(kept), 0).astype(np.int64)


def _used(row: Row) -> Array:
    ids = np.asarray(row[_IDS], np.int64)
    return ids[np.asarray(row[MASK]) > 0] if MASK in row else ids


def _module(found: _Seen, width: int, names: Sequence[str], *, spans: bool) -> Module:
    """A module for these tokens and pairs; with spans, also for what three tokens on end say."""
    import torch

    has_mask, unknown = MASK in names, len(found.tokens) - 1

    class Bag(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("tokens", torch.from_numpy(found.tokens))
            self.register_buffer("together", torch.from_numpy(found.pairs))
            self.words = torch.nn.Embedding(found.token_count + 1, _WIDTH, padding_idx=0, sparse=True)
            self.pairs = torch.nn.Embedding(found.pair_count + 1, _WIDTH, padding_idx=0, sparse=True)
            with torch.no_grad():
                self.words.weight.mul_(_SMALL)
                if found.vectors is not None:
                    self.words.weight[1:] = torch.from_numpy(found.vectors)
                self.pairs.weight.zero_()
            self.drop = torch.nn.Dropout(_DROPOUT)
            seen_width = _WIDTH + (_SPANS if spans else 0)
            if spans:
                self.spans = torch.nn.ModuleList(
                    torch.nn.Linear(_WIDTH, _SPANS, bias=middle) for middle in (False, True, False)
                )
            self.straight = torch.nn.Linear(seen_width, width)
            self.hidden = torch.nn.Linear(seen_width, _HIDDEN)
            self.last = torch.nn.Linear(_HIDDEN, width)

        def forward(self, **tensors: Any) -> Any:
            ids = tensors[_IDS].long()
            flat = ids.reshape(-1)
            flat = torch.where((flat >= 0) & (flat < unknown), flat, unknown)
            here = self.tokens.index_select(0, flat).reshape(ids.shape)
            if has_mask:
                here = here * (tensors[MASK] > 0).long()
            if self.training:
                here = here * (torch.rand(here.shape) >= _LEFT_OUT).long()
            after = torch.cat([here[:, 1:], torch.zeros_like(here[:, :1])], dim=1)
            places = torch.where((here > 0) & (after > 0), (here * _FACTOR + after) % _PLACES + 1, 0)
            pairs = self.together.index_select(0, places.reshape(-1)).reshape(ids.shape)
            total = (self.words(here) + self.pairs(pairs)).sum(dim=1)
            x = total / (here > 0).sum(dim=1, keepdim=True).clamp_min(1).float()
            if spans:
                before = torch.cat([torch.zeros_like(here[:, :1]), here[:, :-1]], dim=1)
                x = torch.cat([x, _clearest(self, before, here, after)], dim=1)
            x = self.drop(x)
            return self.straight(x) + self.last(self.drop(torch.relu(self.hidden(x))))

    return Bag()


def _clearest(bag: Module, before: Any, here: Any, after: Any) -> Any:
    """Of each feature of three tokens on end its highest value in the text, 0 at least.

    What a token adds does not depend on its neighbours: once nothing is learned any more there are tables of it, which
    whoever runs the graph computes when it is loaded.
    """
    import torch

    if bag.training:
        places = zip(bag.spans, (before, here, after), strict=True)
        first, middle, last = (part(bag.words(place) / _SMALL) for part, place in places)
        found = (first + middle + last).masked_fill((here == 0)[:, :, None], 0.0)
    else:
        first, middle, last = (part(bag.words.weight / _SMALL) for part in bag.spans)
        middle = torch.cat([torch.full_like(middle[:1], _NEVER), middle[1:]])
        looked_up = torch.nn.functional.embedding
        found = looked_up(before, first) + looked_up(here, middle) + looked_up(after, last)
    return torch.relu(found.amax(dim=1))
