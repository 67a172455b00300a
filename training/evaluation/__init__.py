"""Predictions of checkpoints and bundles, scored, compared and calibrated."""
