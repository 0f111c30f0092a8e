"""Objectives: a scalar loss beside its gradient, from log-probabilities to dlogp."""
