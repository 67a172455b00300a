"""The lifecycle node: wiring, parameters, inputs, outputs, what it reports."""
