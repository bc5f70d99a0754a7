"""`python -m convinspect`."""

from convinspect.cli import main

if __name__ == "__main__":
    main()
