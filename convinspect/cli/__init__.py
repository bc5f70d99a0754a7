"""The command line: options and exit codes. What is worth testing lies below it."""

from convinspect.cli.main import main

__all__ = ["main"]
