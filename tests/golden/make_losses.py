"""Make tests/golden/losses.npz: what the losses of other libraries say of embeddings.

Run once, from the root of the repository, in an environment with torch,
sentence-transformers and FlagEmbedding; the library itself needs none of them:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_losses.py

Made with torch 2.13.0, sentence-transformers 6.2.0 and FlagEmbedding 1.4.2. All is
computed in float64 from float32 inputs; gradients are by the inputs.

- query [b e], passage [b g e], not of length 1: the losses take cosines
- dims, weights: of Matryoshka
- ranking, ranking_hard, ranking_symmetric, cached, cached_hard, nested_hard, simcse,
  simcse_weighted, each with /loss, /query and /passage; with "hard" all passages are
  given, with "weighted" two, else the positives only
- graded/labels [b], graded/loss, graded/query, graded/passage: CoSENT, positives only
- kd/scores [b b*g], kd/teacher [b g]: scores as logits; kd/kl, kd/kl_scores,
  kd/m3, kd/m3_scores: FlagEmbedding's two ways, a mean over the batch, kl of the own
  group's scores alone
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

B, G, E = 6, 3, 16
DIMS, WEIGHTS = (2, 5, 16), (0.2, 0.3, 1.0)


def measure(
    loss: Callable[[Any, Any], Any], query: np.ndarray, passage: np.ndarray
) -> dict[str, np.ndarray]:
    """The loss of torch tensors, and its gradients."""
    import torch

    one = torch.tensor(query, dtype=torch.float64, requires_grad=True)
    two = torch.tensor(passage, dtype=torch.float64, requires_grad=True)
    value = loss(one, two)
    value.backward()
    assert one.grad is not None and two.grad is not None
    return {
        "loss": value.detach().numpy(),
        "query": one.grad.numpy(),
        "passage": two.grad.numpy(),
    }


def sentence_transformers(name: str, **options: Any) -> Callable[[Any, Any], Any]:
    """One of its losses, with embeddings in the place of texts and of a model."""
    import torch
    from sentence_transformers.sentence_transformer import losses

    class Given(torch.nn.Sequential):
        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            return {"sentence_embedding": features["embedding"]}

        def get_embedding_dimension(self) -> int:
            return E

    dims = options.pop("dims", None)
    labels = options.pop("labels", None)
    model: Any = Given(torch.nn.Identity())
    kind = getattr(losses, name)(model, **options)
    if dims is not None:
        kind = losses.MatryoshkaLoss(model, kind, dims, list(WEIGHTS))
    labels = None if labels is None else torch.tensor(labels, dtype=torch.float64)

    def loss(query: Any, passage: Any) -> Any:
        columns = [query, *passage.unbind(1)]
        return kind([{"embedding": column} for column in columns], labels)

    return loss


def simcse(log_weight: float = 0.0) -> Callable[[Any, Any], Any]:
    """SimCSE's formula as published: z1 to z2 and, if there, z3, own z3 by a weight."""
    import torch
    from torch.nn.functional import cosine_similarity, cross_entropy

    def loss(query: Any, passage: Any) -> Any:
        rows = query[:, None]
        scores = cosine_similarity(rows, passage[None, :, 0], dim=-1) / 0.05
        if passage.shape[1] > 1:
            hard = cosine_similarity(rows, passage[None, :, 1], dim=-1) / 0.05
            hard = hard + log_weight * torch.eye(B, dtype=hard.dtype)
            scores = torch.cat([scores, hard], dim=1)
        return cross_entropy(scores, torch.arange(B))

    return loss


def distill(kind: str, scores: np.ndarray, teacher: np.ndarray) -> tuple[Any, Any]:
    """FlagEmbedding's loss, and its gradient by the scores."""
    import torch
    from FlagEmbedding.abc.finetune.embedder import AbsEmbedderModel

    given = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    target = torch.softmax(torch.tensor(teacher, dtype=torch.float64), dim=-1)
    loss = AbsEmbedderModel.distill_loss(kind, target, given, group_size=G)
    loss.backward()
    assert given.grad is not None
    return loss.detach().numpy(), given.grad.numpy()


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(B, E)).astype(np.float32)
    # Near their queries, so that the losses are neither 0 nor all alike.
    passage = (query[:, None] + 2 * rng.normal(size=(B, G, E))).astype(np.float32)
    labels = np.array([0.5, 3.0, 0.5, 5.0, 1.0, 3.0], np.float32)
    plain, cached = "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"
    both = ("query_to_doc", "doc_to_query")
    known = {
        "ranking": sentence_transformers(plain, scale=20.0),
        "ranking_symmetric": sentence_transformers(
            plain, scale=20.0, directions=both, partition_mode="per_direction"
        ),
        "cached": sentence_transformers(cached, scale=20.0, mini_batch_size=4),
        "simcse": simcse(),
        "graded": sentence_transformers("CoSENTLoss", scale=20.0, labels=labels),
    }
    with_hard = {
        "ranking_hard": known["ranking"],
        "cached_hard": known["cached"],
        "nested_hard": sentence_transformers(plain, scale=20.0, dims=DIMS),
    }
    found: dict[str, Any] = {}

    def keep(name: str, loss: Callable[[Any, Any], Any], passages: int) -> None:
        said = measure(loss, query, passage[:, :passages])
        found.update({f"{name}/{part}": x for part, x in said.items()})

    for name, loss in known.items():
        keep(name, loss, 1)
    for name, loss in with_hard.items():
        keep(name, loss, G)
    keep("simcse_weighted", simcse(0.7), 2)

    scores = rng.normal(size=(B, B * G)).astype(np.float32)
    teacher = rng.normal(size=(B, G)).astype(np.float32) * 2
    own = np.arange(B)[:, None] * G + np.arange(G)
    kl = distill("kl_div", np.take_along_axis(scores, own, 1), teacher)
    m3 = distill("m3_kd_loss", scores, teacher)
    found |= {"query": query, "passage": passage, "graded/labels": labels}
    found |= {"dims": np.array(DIMS), "weights": np.array(WEIGHTS)}
    found |= {"kd/scores": scores, "kd/teacher": teacher}
    found |= {"kd/kl": kl[0], "kd/kl_scores": kl[1]}
    found |= {"kd/m3": m3[0], "kd/m3_scores": m3[1]}
    np.savez_compressed(Path(__file__).parent / "losses.npz", **found)


if __name__ == "__main__":
    main()
