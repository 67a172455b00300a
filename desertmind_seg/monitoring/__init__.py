"""How the node is, for those who watch it: counts, stamps, connections, heartbeat."""
