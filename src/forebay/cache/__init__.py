"""Answers that are kept: what makes two requests equal, where answers are, how long they are served."""
