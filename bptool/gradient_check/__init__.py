"""Finite differences against any differentiable piece."""
