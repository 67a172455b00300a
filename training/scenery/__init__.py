"""The place of a procedural drive: ground, hazards, plants and sky, drawn from a seed."""
