"""The lifecycle node: wiring, inputs, loading, what it reports."""
