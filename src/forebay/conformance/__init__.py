"""The Open Inference Protocol conformance kit: checks written from the specification, and what runs them."""
