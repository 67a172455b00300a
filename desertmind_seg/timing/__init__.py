"""How long a bundle takes here, and how long it had to take."""
