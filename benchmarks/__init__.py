"""How fast galvan is beside the tools that people use for the same work, measured in one run: `python -m benchmarks`."""
