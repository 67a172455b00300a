"""What every room knows: the class table, the bundle, array names, files, errors."""
