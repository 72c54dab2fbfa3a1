"""`python -m unified.cli`, for `accelerate launch -m`."""

from unified.cli.main import main

main()
