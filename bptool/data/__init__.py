"""From text files to mini-batches: tokenizers, token files, splits, sampling, downloads."""
