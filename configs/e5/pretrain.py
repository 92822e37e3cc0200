"""E5, first stage: contrastive training on weakly paired texts.

    python -m m3jax.train --config configs/e5/pretrain.py --size base \
        --data.train "pairs/*.jsonl"

Hardware: TPU v5e-16 (small), v5e-32 (base), v5e-64 (large); unconfirmed of the authors:
16, 32 and 64 V100 for 1, 1 and 2 days. Time and score of this config are not measured.
Unconfirmed of theirs: BEIR nDCG@10 40.8, 42.9 and 44.2 after this stage (BM25 41.7).
Data: rows {"query": "...", "pos": ["..."]}; unconfirmed: 270 million, left over from
1.3 billion by a filter. 2 % of the queries (1,000 at most) are held out and select the
checkpoint.
Published: both prompts, mean pooling, temperature 0.01. Unconfirmed: texts of 128
tokens, positions left alone, batches of 32,768, 20,000 steps, the learning rates,
1,000 steps of warm-up, weight decay 0.01.

Sizes: small, base, large; smoke (a few steps of a tiny random model, in a minute on 2
cores).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.data.prompts import Prompts
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.groups import Group
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig

# Size -> what it starts from, and its learning rate.
SIZES = {
    "small": ("microsoft/MiniLM-L12-H384-uncased", 3e-4),
    "base": ("google-bert/bert-base-uncased", 2e-4),
    "large": ("google-bert/bert-large-uncased-whole-word-masking", 1e-4),
}


def get_config(size: Literal["small", "base", "large", "smoke"] = "base") -> Train:
    """Return the one stage."""
    init, learning_rate = SIZES["base" if size == "smoke" else size]
    stage = Train(
        init=init,
        data=DataConfig(
            train="pairs/*.jsonl",
            batch_size=32_768,
            query_length=128,
            passage_length=128,
            prompts=Prompts(query="query: ", passage="passage: "),
        ),
        model=EmbeddingConfig(BertConfig(dtype="bfloat16", remat="full"), "mean"),
        objective=ContrastiveConfig(temperature=0.01, tile=256),
        sub_batches=SubBatches(tokens=32_768),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate,
            warmup_steps=1_000,
            weight_decay=0.01,
            groups=(Group(r"\.position\.", freeze=True),),
        ),
        mesh=MeshConfig(fsdp=8),
        steps=20_000,
        evaluate_every=1_000,
    )
    return shrink(stage) if size == "smoke" else stage
