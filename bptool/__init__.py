"""bptool: train language models from text files by backpropagation written out by hand."""

__version__ = "0.1.0"
