"""Arithmetic of a training step, counted from shapes: XLA counts a loop's body once."""

from dataclasses import dataclass

from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.encoder import EncoderConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.ops.attention import SPLASH_LENGTH
from m3jax.training.objectives.contrastive import ContrastiveConfig
from m3jax.training.objectives.make import (
    ObjectiveConfig,
    masks_words,
    trained_heads,
)
from m3jax.training.objectives.masked_lm import MaskedLMConfig
from m3jax.training.objectives.momentum import MomentumConfig
from m3jax.training.objectives.retromae import RetroMAEConfig
from m3jax.training.objectives.unified import UnifiedConfig

# Columns of the tables by which `ops.scores.sparse` compares tokens.
_COLUMNS = 4_096


@dataclass(frozen=True)
class Texts:
    """Texts that are encoded in a step, over all chips.

    Attributes:
        count: of them.
        length: tokens of each, padding included.
        parts: in which a chip encodes them.
        learns: False where no gradient goes through (MoCo's passages).
    """

    count: int
    length: int
    parts: int = 1
    learns: bool = True

    @property
    def tokens(self) -> int:
        """Of all of them."""
        return self.count * self.length


@dataclass(frozen=True)
class Flops:
    """FLOPs of one step over all chips; a multiply-add is two.

    Attributes:
        model: forward and backward of the encoder, and of what masked words need
            beside it, once, as MFU counts.
        hardware: what is computed: recomputation and the whole of masked blocks too.
        loss_model: value and gradient of a contrastive loss.
        loss: what is computed for it.
        loss_half: the part of it whose operands are bfloat16; the others are float32,
            in full precision.
    """

    model: float
    hardware: float
    loss_model: float
    loss: float
    loss_half: float = 0.0


def forward(config: EncoderConfig, texts: Texts) -> tuple[float, float]:
    """FLOPs of an encoder's forward pass: its matrices, and its attention.

    Matrices: 2 a weight and token. Attention: 4 l w a token and layer, w the width of
    all heads; half of it under a causal mask.

    Args:
        config: of the encoder.
        texts: how many, how long.

    Returns:
        Both.

    Example:
        >>> config = BertConfig(hidden=4, layers=1, heads=1, mlp=8)
        >>> forward(config, Texts(1, 2))
        (512.0, 64.0)
    """
    d = config.hidden
    if isinstance(config, BertConfig):
        weights, width = 4 * d * d + 2 * d * config.mlp, d
    else:
        width = config.heads * config.head_dim
        keys = config.kv_heads * config.head_dim
        weights = 2 * d * width + 2 * d * keys + 3 * d * config.mlp
    matrices = 2.0 * weights * texts.tokens * config.layers
    attention = 4.0 * texts.length * width * texts.tokens * config.layers
    return matrices, attention * (0.5 if is_causal(config) else 1)


def is_causal(config: EncoderConfig) -> bool:
    """Whether a token sees only what stands before it.

    Example:
        >>> is_causal(BertConfig())
        False
    """
    return not isinstance(config, BertConfig) and config.attention == "causal"


def encoding(
    config: EncoderConfig, texts: Texts, *, backward: float = 2.0
) -> tuple[float, float]:
    """FLOPs of an encoder in a training step: model's and hardware's.

    Hardware: remat="full" computes the forward pass once more, and so do parts; XLA
    computes all scores under a causal mask, where splash leaves half of them out but
    makes them again in its backward pass (5 products for 4).

    Args:
        config: of the encoder.
        texts: what is encoded.
        backward: FLOPs of the backward pass by those of the forward pass: 2, or 1 where
            the weights have no gradient (LoRA), or 0 where nothing has.

    Returns:
        Both.
    """
    matrices, attention = forward(config, texts)
    if not texts.learns:
        backward = 0.0
    again = 0
    if backward:
        again = (config.remat == "full") + (texts.parts > 1)
    # Attention has no weights: its gradient costs the same for LoRA.
    back = 2.0 if backward else 0.0
    model = matrices * (1 + backward) + attention * (1 + back)
    splash = texts.length >= SPLASH_LENGTH
    every = 2 if is_causal(config) and not splash else 1
    back = 2.5 if splash and backward else back
    kept = again + (config.remat == "dots" and splash and bool(backward))
    hardware = matrices * (1 + again + backward)
    return model, hardware + every * attention * (1 + kept + back)


def heads(config: EmbeddingConfig, names: tuple[str, ...], texts: Texts) -> float:
    """FLOPs of the forward pass of heads.

    Example:
        >>> config = EmbeddingConfig(BertConfig(hidden=4), multivec=8)
        >>> heads(config, ("dense", "multivec"), Texts(1, 2))
        128.0
    """
    d = config.encoder.hidden
    total = 0.0
    if "sparse" in names:
        total += 2.0 * d * texts.tokens
    if "multivec" in names and config.multivec:
        total += 2.0 * d * config.multivec * texts.tokens
    if "dense" in names and config.mlp_head != "none":
        total += 2.0 * d * d * texts.count
    return total


def loss(
    objective: ObjectiveConfig,
    config: EmbeddingConfig,
    rows: int,
    group: int,
    query_length: int,
    passage_length: int,
) -> tuple[float, float]:
    """FLOPs of value and gradient of a loss over the whole batch: model's, hardware's.

    Dense: 3 x 2 e for each pair of a block. Sparse: tables of up to 4,096 columns,
    which are multiplied twice forward. MaxSim makes its products once; its gradient
    goes through the nearest token alone. A reranker's loss is next to nothing, and
    that of masked words is counted by `masked_words`.

    Args:
        objective: which loss.
        config: the model.
        rows: queries B.
        group: passages of each.
        query_length: tokens of a query.
        passage_length: tokens of a passage.

    Returns:
        Both.
    """
    e, passages = config.encoder.hidden, rows * group
    if isinstance(objective, MomentumConfig):
        found = 2 * 2.0 * rows * (objective.queue + group) * e  # the queue is fixed
        return found, found
    if isinstance(objective, ContrastiveConfig):
        other = {"passages": passages, "positive_passage": passages, "own": 0}
        columns = sum(other.get(name, rows) for name in objective.negatives)
        if "passages" not in objective.negatives:
            columns += group
        columns += rows * objective.bidirectional
        pairs = 2.0 * rows * columns
        widths = sum(objective.dims) or e
        model = 3 * pairs * widths
        again = 1 if objective.tile or objective.transport == "ring" else 0
        # With prefixes, the whole width is also scored for what is watched.
        return model, (3 + again) * pairs * widths + bool(objective.dims) * pairs * e
    if not isinstance(objective, UnifiedConfig):
        return 0.0, 0.0
    model = hardware = 0.0
    names = trained_heads(objective)
    if "dense" in names:
        one = 2.0 * rows * passages * (sum(objective.dims) or e)
        model += 3 * one
        hardware += 3 * one + 2.0 * rows * passages * e  # what is watched
    if "sparse" in names:
        shared = min(rows, max(1, _COLUMNS // query_length)) * query_length
        one = 2.0 * rows * passages * shared
        model, hardware = model + 3 * one, hardware + 4 * one
    if "multivec" in names and config.multivec:
        products = maxsim(config, rows, passages, query_length, passage_length)
        found = products + 2 * products / passage_length
        model, hardware = model + found, hardware + found
    return model, hardware


def maxsim(
    config: EmbeddingConfig,
    rows: int,
    passages: int,
    query_length: int,
    passage_length: int,
) -> float:
    """FLOPs of the products of all tokens of all queries with those of all passages.

    Args:
        config: the model.
        rows: queries.
        passages: of all queries.
        query_length: tokens of a query.
        passage_length: tokens of a passage.

    Returns:
        Of the forward pass; the gradient makes none of them again.

    Example:
        >>> maxsim(EmbeddingConfig(multivec=8), 1, 2, 3, 4)
        384.0
    """
    width = config.multivec or 0
    return 2.0 * width * rows * query_length * passages * passage_length


def masked_words(
    objective: ObjectiveConfig, config: EncoderConfig, texts: tuple[Texts, ...]
) -> tuple[float, float]:
    """FLOPs of what masked words need behind the encoder: model's and hardware's.

    Head: 2 d^2 a token. Vocabulary: three products of 2 d v for each token that is
    told, in the dtype of the model; padding is told nothing and is counted here as if
    it were, for shapes do not show its share. RetroMAE: a decoder of one layer, whose
    attention is made again in its backward pass, and all tokens are told.

    Args:
        objective: one that masks words.
        config: of the encoder.
        texts: what is read.

    Returns:
        Both.

    Example:
        >>> config = BertConfig(8, 4, layers=1, heads=1, mlp=8)
        >>> masked_words(MaskedLMConfig(0.5), config, (Texts(1, 2),))
        (384.0, 384.0)
    """
    d, model, hardware = config.hidden, 0.0, 0.0
    for one in texts:
        attention = 0.0
        if isinstance(objective, RetroMAEConfig):
            assert isinstance(config, BertConfig)
            told, before = objective.encoder_ratio + 1, 2 * 2.0 * d * d * one.tokens
            before += 2.0 * (4 * d * d + 2 * d * config.mlp) * one.tokens
            attention = 4.0 * one.length * d * one.tokens
        else:
            assert isinstance(objective, MaskedLMConfig | ContrastiveConfig)
            alone = isinstance(objective, MaskedLMConfig)
            told = objective.ratio if alone else objective.mlm_ratio
            before = 2.0 * d * d * one.tokens
        vocabulary = 3 * 2.0 * d * config.vocab_size * told * one.tokens
        again = one.parts > 1
        model += 3 * (before + attention) + vocabulary
        hardware += (3 + again) * before + (4 + again) * attention * bool(attention)
        hardware += vocabulary
    return model, hardware


def step(
    objective: ObjectiveConfig,
    config: EmbeddingConfig | RerankerConfig,
    texts: tuple[Texts, ...],
    *,
    rows: int,
    group: int,
    query_length: int,
    passage_length: int,
    backward: float = 2.0,
) -> Flops:
    """FLOPs of one training step over all chips.

    Args:
        objective: which loss.
        config: the model.
        texts: what it encodes.
        rows: queries.
        group: passages of each.
        query_length: tokens of a query.
        passage_length: tokens of a passage.
        backward: as of `encoding`.

    Returns:
        Model's and hardware's.

    Example:
        >>> config = EmbeddingConfig(BertConfig(remat="none"))
        >>> sizes = {"rows": 8, "group": 1, "query_length": 4, "passage_length": 4}
        >>> found = step(ContrastiveConfig(), config, (Texts(8, 4),), **sizes)
        >>> found.model == found.hardware
        True
    """
    encoder, model, hardware = config.encoder, 0.0, 0.0
    words = masks_words(objective)
    alone = isinstance(objective, RetroMAEConfig | MaskedLMConfig)
    for one in texts:
        first, second = encoding(encoder, one, backward=backward)
        # Beside a contrastive loss all texts are read once more, masked.
        times = 2 if words and not alone else 1
        model, hardware = model + times * first, hardware + times * second
        if alone or isinstance(config, RerankerConfig):
            continue
        extra = heads(config, trained_heads(objective), one)
        learns = 3 if one.learns else 1
        model += learns * extra
        hardware += (learns + (one.parts > 1 and one.learns)) * extra
    if words:
        first, second = masked_words(objective, encoder, texts)
        model, hardware = model + first, hardware + second
    of_loss, half = (0.0, 0.0), 0.0
    if isinstance(config, EmbeddingConfig):
        of_loss = loss(objective, config, rows, group, query_length, passage_length)
        if isinstance(objective, UnifiedConfig) and (
            "multivec" in trained_heads(objective)
            and objective.multivec_dtype == "bfloat16"
        ):
            half = maxsim(config, rows, rows * group, query_length, passage_length)
    return Flops(model, hardware, *of_loss, half)
