"""Thousands of bags, each scored once: where they lie, what they hold, who runs them."""
