"""The command line: options and exit codes. What is worth testing lies below it."""

from convinspect.cli.main import main, program

__all__ = ["main", "program"]
