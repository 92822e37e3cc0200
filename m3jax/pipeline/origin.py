"""What a stage begins with: the model that it goes on from, and its tokenizer."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data import tokenize, vocabulary
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import Data, datasets, query_prompts
from m3jax.hub import folder, reranker
from m3jax.hub.kind import kind
from m3jax.hub.reranker import TASK
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline.stage import SCRATCH, Train


@dataclass(frozen=True)
class Origin:
    """The model to go on from.

    Attributes:
        config: its shape; of an encoder alone that of an embedding model.
        prompts: that it was trained with.
        tokenizer: of the model.
        read: puts its parameters on a mesh.
    """

    config: EmbeddingConfig | RerankerConfig
    prompts: Prompts
    tokenizer: Tokenizer
    read: Callable[[Mesh], Params]


def open_origin(stage: Train) -> Origin | None:
    """Open the model that a stage goes on from; its parameters are not read yet.

    Args:
        stage: the config.

    Returns:
        The model; None where the stage starts from nothing.

    Raises:
        InputError: there is no such model, or the stage names a tokenizer too.
    """
    if stage.init in (None, SCRATCH):
        return None
    assert stage.init is not None
    if stage.tokenizer.pretrained is not None:
        raise InputError(
            "the tokenizer of the model to go on from",
            stage.tokenizer.pretrained,
            where="tokenizer.pretrained",
            do="Leave it out with --init.",
        )
    if isinstance(stage.model, RerankerConfig) and kind(stage.init) == "reranker":
        model, read = reranker.open_model(stage.init)
        return Origin(model.config, Prompts(), model.tokenizer, read)
    pooling = None if isinstance(stage.model, RerankerConfig) else stage.model.pooling
    model, read = folder.open_model(stage.init, default_pooling=pooling or "cls")
    if isinstance(stage.model, RerankerConfig):
        # Of an embedding model its encoder: heads and prompts are of no use here.
        return Origin(
            model.config,
            Prompts(),
            model.tokenizer,
            lambda mesh: {"encoder": read(mesh)["encoder"]},
        )
    return Origin(model.config, model.prompts, model.tokenizer, read)


def in_shape_of(
    stage: Train, config: EmbeddingConfig | RerankerConfig, prompts: Prompts
) -> Train:
    """A stage in the shape of the model that it goes on from, and with its prompts.

    Of the stage's own `model` these hold: dtype and rematerialisation, the attention of
    a Qwen that is to become bidirectional, and heads that the model does not have yet.

    Args:
        stage: the config.
        config: of the model to go on from.
        prompts: of that model; the stage's own come first, and a reranker that goes on
            from an embedding model has no use for them.

    Returns:
        The stage.

    Raises:
        InputError: the stage asks for token vectors of another width than the model's,
            or for a model of another kind.
    """
    wanted = stage.model
    same = ("dtype", "remat", "attention")
    encoder = dataclasses.replace(
        config.encoder,
        **{
            name: getattr(wanted.encoder, name)
            for name in same
            if hasattr(config.encoder, name) and hasattr(wanted.encoder, name)
        },
    )
    embeds = isinstance(wanted, EmbeddingConfig)
    if embeds and prompts != Prompts() and stage.data.prompts == Prompts():
        data = dataclasses.replace(stage.data, prompts=prompts)
        stage = dataclasses.replace(stage, data=data)
    if isinstance(wanted, RerankerConfig):
        shape = config if isinstance(config, RerankerConfig) else wanted
        model = dataclasses.replace(shape, encoder=encoder)
        if model.head == "yes_no" and stage.data.prompts == Prompts():
            # What stands before a query is what it is asked for.
            data = dataclasses.replace(stage.data, prompts=Prompts(TASK, task="{task}"))
            stage = dataclasses.replace(stage, data=data)
        return dataclasses.replace(stage, model=model)
    if isinstance(config, RerankerConfig):
        raise InputError("an embedding model", "a reranker", where=f"{stage.init}")
    if wanted.multivec and config.multivec and wanted.multivec != config.multivec:
        raise InputError(
            f"{config.multivec}, as the model to go on from has",
            f"{wanted.multivec}",
            where="model.multivec",
        )
    model = dataclasses.replace(
        config,
        encoder=encoder,
        mlp_head=config.mlp_head if wanted.mlp_head == "none" else wanted.mlp_head,
        sparse=config.sparse or wanted.sparse,
        multivec=config.multivec or wanted.multivec,
    )
    return dataclasses.replace(stage, model=model)


def overruled(asked: Train, found: Train) -> list[str]:
    """What a config says of its model, and the model to go on from has otherwise.

    Args:
        asked: as the config made it.
        found: in the shape of that model.

    Returns:
        Phrases.

    Example:
        >>> from m3jax.nn.bert import BertConfig
        >>> small, large = (
        ...     Train(model=EmbeddingConfig(BertConfig(hidden=n))) for n in (64, 128)
        ... )
        >>> overruled(small, large)
        ['hidden 128 and not 64']
    """
    pairs = [(asked.model.encoder, found.model.encoder), (asked.model, found.model)]
    own = ("encoder", "dtype", "remat", "attention", "dropout")
    return [
        f"{field.name} {getattr(has, field.name, None)} and not {wanted}"
        for wants, has in pairs
        for field in dataclasses.fields(wants)
        if field.name not in own
        and (wanted := getattr(wants, field.name)) not in (None, False, field.default)
        and wanted != getattr(has, field.name, None)
    ]


def choose_tokenizer(stage: Train, data: Data, origin: Origin | None) -> Tokenizer:
    """The tokenizer of a run: of its model, of a folder, or trained on its data.

    Args:
        stage: the config.
        data: its data.
        origin: the model to go on from.

    Returns:
        The tokenizer; for the same config and data always the same.

    Raises:
        InputError: there is no such folder, or too little text to train on.
    """
    if origin is not None:
        return origin.tokenizer
    if stage.tokenizer.pretrained is not None:
        return tokenize.load(stage.tokenizer.pretrained)
    return vocabulary.train(data.texts(), stage.tokenizer)


def check_prompts(stage: Train, tokenizer: Tokenizer) -> None:
    """Refuse prompts that leave no room for the text behind them.

    Args:
        stage: the config.
        tokenizer: of the run.

    Raises:
        InputError: names the length that is too small.
    """
    data = stage.data
    rules = [
        ("data.query_length", data.prompts.query, data.query_length),
        ("data.passage_length", data.prompts.passage, data.passage_length),
    ]
    for one in datasets(data):
        name = one.name or one.path
        queries = query_prompts(one, data)
        passages = queries if one.symmetric else (data.prompts.passage,)
        most = one.query_length or data.query_length
        rules += [(f"{name}: query_length", prompt, most) for prompt in queries]
        most = one.passage_length or data.passage_length
        rules += [(f"{name}: passage_length", prompt, most) for prompt in passages]
    for where, prompt, length in rules:
        (row,) = tokenize.encode(tokenizer, [prompt], max_length=10**6)
        if len(row) >= length:
            side = where.rpartition(".")[2].rpartition(" ")[2].partition("_")[0]
            found = f"{length}"
            expected = f"more than the {len(row)} tokens of the {side} prompt"
            raise InputError(expected, found, where=where)
