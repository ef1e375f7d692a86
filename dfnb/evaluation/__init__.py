"""Scores to metrics."""
