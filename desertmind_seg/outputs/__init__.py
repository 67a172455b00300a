"""What the node publishes of a frame: images, and what planners read."""
