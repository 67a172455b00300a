"""A drive through a procedural place: what its camera sees, as frames, folders and bags."""
