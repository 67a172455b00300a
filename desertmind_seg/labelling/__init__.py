"""Frames to label: which ones, and what labelling tools import of them."""
