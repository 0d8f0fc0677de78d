"""A small model that answers what it is sure of, in front of a large one: how sure, and how it is watched. Pure."""
