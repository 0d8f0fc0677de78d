"""What holds for every test."""

from __future__ import annotations

import os

# Before any library of trees is imported: OpenMP's threads spin while they wait, which costs minutes on shared cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
