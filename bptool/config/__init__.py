"""Typed sections, YAML with line numbers, layers of values, and reports of what is wrong.

Import :mod:`bptool.config.load` for :func:`resolve` and :mod:`bptool.config.schema` for the
sections; this package itself imports nothing, so that a part's own ``Config`` costs little.
"""
