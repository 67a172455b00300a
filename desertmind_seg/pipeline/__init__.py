"""One frame to one mask, and what is drawn and measured of it."""
