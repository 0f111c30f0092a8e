"""Recipes: from what a person asks for to the whole configuration of a run. Nothing here prints."""
