"""Offline half of desertmind_seg: data, training, evaluation and export of bundles."""
