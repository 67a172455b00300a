"""What --rerun shows: frames, masks, depth and points in the Rerun viewer, or in a file for it."""
