"""Operations: one a file, its equation, forward and backward side by side, in Numba."""
