"""A bag scored: masks, labels, depth, a second model, pages."""
