"""Inference: choosing the next token, and generating with a cache. Token ids only."""
