"""What labelling tools and publishers export as masks, read."""
