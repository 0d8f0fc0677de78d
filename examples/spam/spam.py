"""MiniLM with a linear head: mails to the probabilities of two classes, ham and spam. A teacher for `forebay distill`,
see docs/distill-spam.md.

python examples/minilm/build.py
python examples/spam/build.py
forebay serve examples/spam/spam.py:Spam
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.minilm.classifier import Classifier

FOLDER = Path(__file__).resolve().parents[2] / ".forebay" / "models" / "spam"


class Spam(Classifier):
    """UTF-8 text (BYTES) to probabilities (FP32, ham and spam)."""

    head_folder = FOLDER
    made_by = "examples/spam/build.py"
