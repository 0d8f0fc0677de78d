"""What to run next, how much of it, and where: queue, policy, latency model and simulator. Pure, no I/O."""

from forebay.batching.batcher import Batcher
from forebay.batching.item import Batch, DispatchReason, Item, Refusal
from forebay.batching.latency import LatencyModel
from forebay.batching.policy import Policy

__all__ = ["Batch", "Batcher", "DispatchReason", "Item", "LatencyModel", "Policy", "Refusal"]
