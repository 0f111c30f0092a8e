"""What runs learn from: one lesson a file, which :mod:`bptool.training.loop` asks for steps."""
