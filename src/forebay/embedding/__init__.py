"""Forebay inside somebody else's program: serve a class, an ASGI app, an engine to await."""
