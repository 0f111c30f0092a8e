"""Conversations: records that the field writes, templates that make tokens of them, packing."""
