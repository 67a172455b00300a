"""The parameters of the node: their table, and the values that a running node has."""
