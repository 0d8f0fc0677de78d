"""A small, fast student that has learned to answer as a served model does."""
