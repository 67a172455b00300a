"""The reference experiments, run in order and put beside what was reported of them."""
