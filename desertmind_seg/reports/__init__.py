"""Pages, charts and tables for people, and the folders that they are written to."""
