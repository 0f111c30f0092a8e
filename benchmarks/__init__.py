"""Speed of bptool beside its peers, measured in turn in one run: ``python -m benchmarks``."""
