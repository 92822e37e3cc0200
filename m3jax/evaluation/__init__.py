"""How good a model is, by other people's measures."""
