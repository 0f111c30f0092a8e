"""The command line: one file a command, and the only package that prints.

Modules here import nothing heavy at the top (numpy, numba, pydantic, matplotlib and the rest of
bptool that needs them load inside the functions), so that ``bptool --help`` answers at once.
"""
