"""Fitting: a run, and a run for each fold."""
