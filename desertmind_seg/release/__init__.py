"""What the rows of a fleet say together: totals, slices, criteria, a page."""
