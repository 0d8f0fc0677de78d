"""Tensors, requests, errors, settings and the clock: what every other package may import."""
