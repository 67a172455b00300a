"""Recipes: one YAML file an experiment, the schema that it keeps to, and how it is loaded."""
