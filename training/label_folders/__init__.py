"""From an export to a data folder: which format it is, its class table, images and masks."""
