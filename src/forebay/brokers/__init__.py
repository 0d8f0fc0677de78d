"""Carrying messages from who asks to who works: the `Broker` port and its implementations."""
