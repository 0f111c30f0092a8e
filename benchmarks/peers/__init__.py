"""What is timed, one file for each: it runs as ``python -m benchmarks.peers NAME SETTINGS``."""
