"""Answers that are kept, so that none is computed twice: exact, shared while in flight, and semantic."""
