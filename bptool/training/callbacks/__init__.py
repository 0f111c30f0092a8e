"""What a run does besides its steps: one callback a file, put in order by ``training.run``."""
