"""Labelled frames of any source to samples."""
