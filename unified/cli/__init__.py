"""The command line: the library's words as commands."""

from unified.cli.main import main

__all__ = ["main"]
