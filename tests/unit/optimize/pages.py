"""The how-tos of `forebay optimize` and `forebay distill`, and what stands in them to be run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = {path.stem: path for kind in ("optimize", "distill") for path in sorted((ROOT / "docs").glob(f"{kind}-*.md"))}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language, empty for output, and content of each block of a page, in order."""
    return _BLOCK.findall(PAGES[page].read_text("utf-8"))


def commands(page: str) -> list[str]:
    """The lines of its `sh` blocks, continued ones as one."""
    text = "".join(content for language, content in blocks(page) if language == "sh")
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
