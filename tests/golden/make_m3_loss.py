"""Make tests/golden/m3_loss.npz: what FlagEmbedding's M3 losses say of embeddings.

Run once, from the root of the repository, in an environment with torch and
FlagEmbedding; the library itself needs neither:

    PEERS/bin/python tests/golden/make_m3_loss.py

Two processes are played one after the other: what the model gathers from the other one
is given to it, without a gradient, as its own code does. Made with torch 2.13.0 and
FlagEmbedding 1.4.2.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

B, G, E, L, J, VOCAB, TEMPERATURE = 4, 3, 8, 6, 9, 30, 0.1
SPECIAL = {"cls": 0, "pad": 1, "eos": 2, "unk": 3}


def model(**options: Any) -> Any:
    """FlagEmbedding's model, with its encoder replaced by embeddings that are given."""
    import torch
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (
        EncoderOnlyEmbedderM3Model,
    )
    from transformers import XLMRobertaConfig, XLMRobertaModel

    class Given(EncoderOnlyEmbedderM3Model):
        def encode(self, features: Any) -> Any:
            weights = features["weights"][..., None]
            sparse = self._sparse_embedding(weights, features["ids"])
            return features["dense"], sparse, features["vectors"]

    config = XLMRobertaConfig(
        vocab_size=VOCAB, hidden_size=E, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8,
    )  # fmt: skip
    parts = {
        "model": XLMRobertaModel(config),
        "colbert_linear": torch.nn.Identity(),
        "sparse_linear": torch.nn.Identity(),
    }
    tokenizer = SimpleNamespace(
        **{f"{name}_token_id": number for name, number in SPECIAL.items()},
        padding_side="right",
    )
    kind = Given(
        parts, tokenizer=tokenizer, temperature=TEMPERATURE, unified_finetuning=True,
        self_distill_start_step=-1, **options,
    )  # fmt: skip
    return kind.train()


def side(rng: np.random.Generator, rows: int, length: int) -> dict[str, np.ndarray]:
    """Embeddings of texts with padding and repeated tokens, as heads give them."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    mask = np.arange(length) < rng.integers(3, length + 1, (rows, 1))
    ids = rng.integers(4, VOCAB, (rows, length))
    ids[:, 0] = SPECIAL["cls"]
    ids[np.arange(rows), mask.sum(1) - 1] = SPECIAL["eos"]
    ids = np.where(mask, ids, SPECIAL["pad"])
    vectors = unit(rng.normal(size=(rows, length, E))) * mask[..., None]
    return {
        "dense": unit(rng.normal(size=(rows, E))),
        "ids": ids,
        "weights": np.abs(rng.normal(size=(rows, length))),
        "vectors": vectors[:, 1:],
        "attention_mask": mask,
    }


def run(
    kind: Any,
    query: dict[str, np.ndarray],
    passage: dict[str, np.ndarray],
    teacher: np.ndarray | None,
    devices: int,
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss over the processes, and the gradient that they average."""
    import torch

    names = ("dense", "weights", "vectors")

    def tensors(given: dict[str, np.ndarray]) -> dict[str, Any]:
        found = {name: torch.tensor(x) for name, x in given.items()}
        for name in names:
            found[name] = found[name].double().requires_grad_()
        return found

    one, two = tensors(query), tensors(passage)
    total = torch.zeros((), dtype=torch.float64)
    for rank in range(devices):

        def mine(x: Any, rows: int, rank: int = rank) -> Any:
            return x[rank * rows : (rank + 1) * rows]

        def gathered(x: Any, rank: int = rank) -> Any:
            # Told apart by what it is: queries, passages or teacher scores.
            everyone = {
                (B, E): one["dense"],
                (B * G, E): two["dense"],
                (B, G): None if teacher is None else torch.tensor(teacher).softmax(-1),
            }[tuple(x.shape)]
            assert everyone is not None
            parts = list(everyone.detach().split(len(x)))
            parts[rank] = x
            return torch.cat(parts)

        kind._dist_gather_tensor = gathered
        kind.process_rank, kind.world_size = rank, devices
        found = kind(
            {name: mine(x, B) for name, x in one.items()},
            {name: mine(x, B * G) for name, x in two.items()},
            None if teacher is None else mine(teacher, B),
        )
        total = total + found.loss / devices
    total.backward()
    slopes = {f"query_{name}": one[name].grad.numpy() for name in names}
    slopes |= {f"passage_{name}": two[name].grad.numpy() for name in names}
    return float(total.detach()), slopes


def main() -> None:
    """Write inputs, losses and gradients of every case."""
    import torch

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    devices = 2
    query, passage = side(rng, devices * B, L), side(rng, devices * B * G, J)
    teacher = rng.normal(size=(devices * B, G))
    written: dict[str, Any] = {f"query_{name}": x for name, x in query.items()}
    written |= {f"passage_{name}": x for name, x in passage.items()}
    written["teacher_scores"] = teacher
    cases: dict[str, tuple[dict[str, Any], np.ndarray | None, int]] = {
        "base": ({}, None, 1),
        "distill": ({"use_self_distill": True}, None, 1),
        "kl_div": ({"kd_loss_type": "kl_div"}, teacher, 1),
        "m3_kd_loss": (
            {"kd_loss_type": "m3_kd_loss", "use_self_distill": True}, teacher, 1
        ),
        "two_devices": ({"use_self_distill": True}, None, 2),
        "two_devices_kl": ({"kd_loss_type": "kl_div"}, teacher, 2),
    }  # fmt: skip
    for name, (options, told, number) in cases.items():
        kind = model(**options)
        kind.negatives_cross_device = number > 1
        rows = number * B
        loss, slopes = run(
            kind,
            {key: x[:rows] for key, x in query.items()},
            {key: x[: rows * G] for key, x in passage.items()},
            None if told is None else told[:rows],
            number,
        )
        written[f"{name}/loss"] = np.array(loss)
        written |= {f"{name}/{key}": x for key, x in slopes.items()}
        print(name, loss)
    np.savez_compressed(Path(__file__).with_name("m3_loss.npz"), **written)


if __name__ == "__main__":
    main()
