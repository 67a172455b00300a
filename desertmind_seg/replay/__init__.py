"""A bag played through the real node, and what came back."""
