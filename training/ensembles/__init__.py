"""Ensembles of folds: probabilities out of fold, weights fitted on them, what they teach."""
