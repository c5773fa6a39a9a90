"""What the public classes stand on: checked arguments, parameters, stacks of layers, tapes, configuration."""
