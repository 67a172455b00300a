"""How the node is, for those who watch it: counts, stamps, images, connections, heartbeat."""
