"""Using a model: encode, score, search."""
