"""The networks, their weights, and the graph that the vehicle runs."""
