"""What a student may be: built-in networks and trees, or a torch module of the user's own."""
