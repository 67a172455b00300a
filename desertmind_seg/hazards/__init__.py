"""What sticks out of the ground, falls off below it or is too steep: seen by the depth camera."""
