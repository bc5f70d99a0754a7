"""`python -m convinspect`."""

from convinspect.cli import program

if __name__ == "__main__":
    program()
