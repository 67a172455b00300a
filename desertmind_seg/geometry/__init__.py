"""From pixels with depth to the ground around the vehicle: no ROS node, no network."""
