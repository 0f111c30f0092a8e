"""Optimizer studies: the same model on the same batches, trained by several rules.

A trial is plain data, (configuration with its optimizer and seeds), and its outcome is plain data
too (curve, status, seconds). How trials are planned, run, ranked, written and drawn are separate
modules; none of them prints.
"""
