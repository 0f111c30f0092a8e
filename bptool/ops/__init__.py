"""Operations: one a file, its equation, shapes and source first, then forward, then backward."""
