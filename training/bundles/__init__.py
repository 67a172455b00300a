"""From a checkpoint to a bundle, through the parity check."""
