"""Arithmetic on arrays: pooling, attention, scores."""
