"""Whether processes and the store hold more after a fault than before: files, memory, keys."""

from __future__ import annotations

import psutil
from tests.e2e.server import eventually
from tests.faults.jobs.houses import BASE, House

MORE_FILES = 32
"""Connections to the store, which are kept, and a moment's to clients."""
MORE_BYTES = 64 << 20
KEYS_A_JOB = 3
"""Its record, its Idempotency-Key, its earlier attempts."""
OTHER_KEYS = 64


class Growth:
    """Compares with when it was made, also processes that have been started since."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._before = self._held()

    def _held(self) -> dict[str, tuple[int, int]]:
        """Open files and resident bytes by part. What the store has in memory is its jobs."""
        found = {}
        for name, served in (("web", self._house.web), ("worker", self._house.worker)):
            process = psutil.Process(served.process.pid)
            found[name] = process.num_fds(), process.memory_info().rss
        found["store"] = self._house.store_process().num_fds(), 0
        return found

    def faults(self) -> list[str]:
        """What has grown."""
        found = []
        for name, (files, nbytes) in self._held().items():
            files_before, nbytes_before = self._before[name]
            if files > files_before + MORE_FILES:
                found.append(f"{name} has {files} files open, and had {files_before}")
            if nbytes > nbytes_before + MORE_BYTES:
                found.append(f"{name} has {nbytes >> 20} MiB, and had {nbytes_before >> 20}")
        keys, jobs = int(self._house.ask("DBSIZE")), int(self._house.ask("ZCARD", f"{BASE}i:anonymous"))
        if keys > KEYS_A_JOB * jobs + OTHER_KEYS:
            found.append(f"{keys} keys for {jobs} jobs")
        return found

    def check(self) -> None:
        """Nothing has grown, or will not stay so."""
        eventually(lambda: not self.faults(), f"nothing has grown: {self.faults()}", 30)
