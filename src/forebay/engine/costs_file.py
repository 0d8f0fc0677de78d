"""What was measured of a model and outlives a restart: `latency/<digest>.json` in the data folder, or `latency.json`
by the model.

A key inside is (runtime, CPU, threads) for costs, and (runtime, CPU, cores, what is fixed) for how many instances and
threads were chosen, so that one file beside a model may serve several kinds of machine. The class of a Python model
goes with its runtime: one file beside it may hold several.

The digest is that of `digest_of`, which is known before a model is loaded. Files that a Python model declares are not
in it: with other weights it takes about as long, and live costs are learned all the time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from forebay.batching import LatencyModel
from forebay.core.settings import ModelSettings
from forebay.engine.sizing import Finding, Size
from forebay.models.source import MEASURED_FILE, ModelSource
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class _MeasuredFile:
    """One model's file: entries by key, each good for one digest only."""

    def __init__(self, data_dir: Path, source: ModelSource, digest: str, key: str) -> None:
        self.path = data_dir / "latency" / f"{digest}.json"
        self._shipped = Path(source.path).with_name(MEASURED_FILE)
        runtime = f"{source.runtime} {source.class_name}" if source.class_name else source.runtime
        self._key = f"{runtime} / {cpu_name()} / {key}"
        self._digest = digest

    def _entries(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """What is kept under this key, the data folder's first, and where."""
        for path in (self.path, self._shipped):
            entry = self._read(path).get(self._key)
            if isinstance(entry, dict) and entry.get("digest") == self._digest:
                yield path, entry

    def _put(self, values: Mapping[str, Any]) -> None:
        """Keep this, in one step. A folder that cannot be written to is a log line, not an error."""
        document = self._read(self.path)
        document[self._key] = {"digest": self._digest, **values}
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
            temporary.replace(self.path)
        except OSError as error:
            log.warning("measured costs are not kept: %s", error, extra=fields(file=str(self.path)))
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            document = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            return {}
        return document if isinstance(document, dict) else {}


class CostsFile(_MeasuredFile):
    """One model's measured costs on disk."""

    def __init__(self, data_dir: Path, source: ModelSource, digest: str, threads: int) -> None:
        super().__init__(data_dir, source, digest, f"{threads} threads")

    def load(self, max_rows: int) -> LatencyModel | None:
        """What was kept for this runtime, processor and thread count; None where there is nothing usable."""
        for path, entry in self._entries():
            try:
                return LatencyModel.from_json(entry["costs"], max_rows)
            except (ValueError, TypeError, KeyError):
                log.warning("the measured costs are not usable and are measured again", extra=fields(file=str(path)))
        return None

    def save(self, latency: LatencyModel) -> None:
        """Keep what has been learned."""
        self._put({"costs": latency.to_json()})


class ChoiceFile(_MeasuredFile):
    """How many instances and threads were found to serve a model best, on disk."""

    def __init__(self, data_dir: Path, source: ModelSource, digest: str, settings: ModelSettings, cores: int) -> None:
        fixed = "".join(
            f", {name} {value}"
            for name, value in (("instances", settings.instances), ("threads", settings.threads))
            if value != "auto"
        )
        super().__init__(data_dir, source, digest, f"auto of {cores} cores{fixed}")
        # What a batch may be decides what is best.
        self._batches = [settings.batching, settings.max_batch_rows, bool(settings.pad)]

    def load(self) -> Finding | None:
        """What was found by an earlier measurement; None where there is nothing usable."""
        for path, entry in self._entries():
            if entry.get("batches") != self._batches:
                continue
            try:
                chosen = _size(entry["chosen"])
                rates = {_size(name): float(rate) for name, rate in entry["rows_per_s"].items()}
                return Finding(chosen, rates, str(entry.get("reason", "")))
            except (ValueError, TypeError, KeyError, AttributeError):
                log.warning("the measured choice is not usable and is measured again", extra=fields(file=str(path)))
        return None

    def save(self, found: Finding) -> None:
        """Keep what was found."""
        rates = {str(size): float(f"{rate:.6g}") for size, rate in found.rates.items()}
        self._put({"batches": self._batches, "chosen": str(found.chosen), "rows_per_s": rates, "reason": found.reason})


def _size(text: str) -> Size:
    """`2x1`. Raises `ValueError`."""
    size = Size(*(int(part) for part in text.split("x")))
    if not 1 <= min(size) <= max(size) <= 4096:
        raise ValueError(text)
    return size
