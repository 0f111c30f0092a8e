"""Training: the step over shards, the loop, evaluation, checkpoints and run folders."""
