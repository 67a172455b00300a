"""Training of one recipe."""
