"""Adapters to the libraries that run models; each is loaded by name in an instance's own process."""
