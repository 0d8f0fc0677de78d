"""Recipes, each a small plug-in: what it is, whether it applies, and how its artefact is made."""
