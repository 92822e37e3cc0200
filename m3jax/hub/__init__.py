"""Weights and folders: published names and layouts, in and out."""
