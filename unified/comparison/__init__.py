"""Several recipes on the same pictures: `unified.compare` and its report."""
