"""ROS and recorded messages to arrays and back, and how they are paired."""
