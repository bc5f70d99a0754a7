"""Archives and compressed files that hold checkpoints, whose members are read where they lie."""
