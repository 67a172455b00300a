"""A procedural off-road drive: everything follows from a seed, and nothing here knows training."""
