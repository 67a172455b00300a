"""A labelled set looked at before anything trains on it."""
