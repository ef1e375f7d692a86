"""Runs of notebooks."""
