"""Answers that are kept: exact, coalesced, semantic."""
