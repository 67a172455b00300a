"""Bytes to pixels: images, labels and depth, from topics and files, by one set of limits."""
