"""Any source, segmented frame by frame, and what is kept and shown of it."""
