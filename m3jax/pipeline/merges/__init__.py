"""Merging of models in files: opened, compared, streamed, and measured."""
