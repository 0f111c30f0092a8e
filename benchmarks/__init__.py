"""Speed of bptool beside its peers, measured in turn in one run. Start: ``python -m benchmarks``."""
