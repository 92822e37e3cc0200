"""E5, second stage: labelled data, with a teacher's scores beside them.

    python -m m3jax.train --config configs/e5/finetune.py --size base \
        --init runs/e5-pretrain-base/model --data.mixture.0.path msmarco.jsonl \
        --data.mixture.1.path nq.jsonl --data.mixture.2.path nli.jsonl

Hardware: TPU v5e-8 (one host); unconfirmed of the authors: 8 GPUs. Time and score of
this config are not measured. Unconfirmed of theirs: BEIR nDCG@10 46.0, 48.7 and 50.0
for small, base and large.
Data: MS MARCO and NQ as rows {"query": "...", "pos": ["..."], "neg": [7 or more],
"pos_scores": [...], "neg_scores": [...]}, NLI as {"query": "...", "pos": ["..."],
"neg": ["..."]}: one contradiction, the other 6 negatives are drawn at random. The
teacher is not released; --data.mixture.0.teacher-scores False trains without one,
which by its author loses little.
Published: KL divergence from the teacher + alpha x InfoNCE, NLI with InfoNCE alone,
temperature 0.01. Unconfirmed: alpha 0.2 (it is SimLM's), 7 hard negatives, texts of 192
tokens, positions left alone, batches of 256, 3 epochs, the learning rates, 400 steps of
warm-up, weight decay 0.01.

Sizes: small, base, large; smoke (a few steps of a tiny random model, in a minute on 2
cores; without a teacher).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.prompts import Prompts
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import at_hand, shrink
from m3jax.pipeline.stage import Train
from m3jax.training.groups import Group
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig

LEARNING_RATES = {"small": 3e-5, "base": 2e-5, "large": 1e-5}


def get_config(size: Literal["small", "base", "large", "smoke"] = "base") -> Train:
    """Return the one stage."""
    named = "base" if size == "smoke" else size
    stage = Train(
        init=f"runs/e5-pretrain-{named}/model",
        data=DataConfig(
            mixture=(
                Dataset("msmarco.jsonl", name="msmarco", teacher_scores=True),
                Dataset("nq.jsonl", name="nq", teacher_scores=True),
                Dataset("nli.jsonl", name="nli", fill="random"),
            ),
            negatives=7,
            batch_size=256,
            query_length=192,
            passage_length=192,
            prompts=Prompts(query="query: ", passage="passage: "),
        ),
        model=EmbeddingConfig(BertConfig(dtype="bfloat16", remat="full"), "mean"),
        objective=ContrastiveConfig(temperature=0.01, contrastive_weight=0.2),
        sub_batches=SubBatches(tokens=32_768),
        optimizer=OptimizerConfig(
            learning_rate=LEARNING_RATES[named],
            warmup_steps=400,
            weight_decay=0.01,
            groups=(Group(r"\.position\.", freeze=True),),
        ),
        mesh=MeshConfig(fsdp=8),
        epochs=3,
        evaluate_every=1_000,
    )
    if size != "smoke":
        return stage
    paths = {name: at_hand(f"{name}/train.jsonl.gz") for name in ("medquad", "nli_en")}
    found = {name: path for name, path in paths.items() if path != "builtin"}
    mixture = tuple(
        Dataset(path, name=name, fill="random")
        for name, path in (found or {"builtin": "builtin"}).items()
    )
    return shrink(stage, mixture=mixture, negatives=3)
