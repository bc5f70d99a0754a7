"""Says what a file or folder is that is not read here, and what to do with it. The tables are in `kinds`."""
