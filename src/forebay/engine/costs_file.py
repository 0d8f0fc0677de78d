"""Measured costs that outlive a restart: `latency/<digest>.json` in the data folder, or `latency.json` by the model.

The key inside is (runtime, CPU, threads), so that one file beside a model may serve several kinds of machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from pathlib import Path
from typing import Any

import msgspec

from forebay.batching import LatencyModel
from forebay.models.source import ModelSource
from forebay.telemetry.logs import fields

log = logging.getLogger("forebay.engine")


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class CostsFile:
    """One model's measured costs on disk."""

    def __init__(self, data_dir: Path, source: ModelSource, digest: str, threads: int) -> None:
        self.path = data_dir / "latency" / f"{digest}.json"
        self._shipped = Path(source.path).with_name("latency.json")
        self._key = f"{source.runtime} / {cpu_name()} / {threads} threads"
        self._digest = digest

    def load(self, max_rows: int) -> LatencyModel | None:
        """What was kept for this runtime, processor and thread count; None where there is nothing usable."""
        for path in (self.path, self._shipped):
            entry = self._read(path).get(self._key)
            if isinstance(entry, dict) and entry.get("digest") == self._digest:
                try:
                    return LatencyModel.from_json(entry["costs"], max_rows)
                except (ValueError, TypeError, KeyError):
                    log.warning(
                        "the measured costs are not usable and are measured again", extra=fields(file=str(path))
                    )
        return None

    def save(self, latency: LatencyModel) -> None:
        """Keep what has been learned. A folder that cannot be written to is a log line, not an error."""
        document = self._read(self.path)
        document[self._key] = {"digest": self._digest, "costs": latency.to_json()}
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
