"""One set of scores for bags and for training."""
