"""The lifecycle node: wiring, parameters, inputs, outputs, diagnostics."""
