"""Whether two models say the same, and how sure one is of what it says. Pure."""
