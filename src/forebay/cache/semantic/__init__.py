"""Answers to texts that mean the same: kept apart by hard partitions, found by vectors, let through by a guard."""
