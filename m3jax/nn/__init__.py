"""Encoders and heads in Flax Linen, and the pure function that applies them."""
