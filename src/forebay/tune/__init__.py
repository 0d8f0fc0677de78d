"""The settings that serve a model best on this machine under an SLO: real servers, open-loop load, a search."""
