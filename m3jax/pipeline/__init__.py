"""Stages of a run, and their runner."""
