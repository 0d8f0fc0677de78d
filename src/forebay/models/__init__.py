"""What a model is: its base class, its signature, and where it comes from."""
