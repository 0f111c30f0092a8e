"""Scripts that try to lose a run: random kills, long soaks, and fuzzing."""
