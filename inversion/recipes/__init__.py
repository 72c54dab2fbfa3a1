"""Published methods as data, one file each."""
