"""Models for mteb v2: dense embeddings, searches with every head, and rerankers.

    import mteb
    from m3jax.evaluation.mteb import load

    mteb.evaluate(load("BAAI/bge-m3"), mteb.get_tasks(tasks=["STS17"]))

mteb, and the torch that it needs, are imported when a model is made.
"""

from m3jax.evaluation.mteb.models import CrossEncoder, Encoder, load
from m3jax.evaluation.mteb.searches import Searcher, searchers

__all__ = ["CrossEncoder", "Encoder", "Searcher", "load", "searchers"]
