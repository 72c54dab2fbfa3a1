"""Finding directions: one file for each method."""
