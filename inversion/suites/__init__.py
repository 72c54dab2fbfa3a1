"""Published tables that `unified compare --suite` measures again."""
