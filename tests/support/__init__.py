"""What builds the inputs of tests, runs the program, and knows what must hold of a result."""
