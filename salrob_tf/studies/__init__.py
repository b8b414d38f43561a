"""Runs and the folders that scripts fill."""
