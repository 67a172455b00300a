"""Depth with less of it: whole frames without, and holes as sensors leave them."""
