"""A cheaper form of a model, proven to answer the same: a search over recipes with a gate."""
