"""Studies of optimizers: trials as data, run side by side, and what can be said of them."""
