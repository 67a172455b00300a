"""Where the camera of a recorded drive looks, and what its depth says of the ground."""
