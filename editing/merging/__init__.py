"""Ways of merging several concepts into one."""
