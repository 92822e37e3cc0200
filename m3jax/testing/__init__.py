"""Small models and texts, so that a test or a notebook needs no download."""

from m3jax.testing.tiny import TEXTS, tiny_config, tiny_tokenizer, write_jsonl

__all__ = ["TEXTS", "tiny_config", "tiny_tokenizer", "write_jsonl"]
