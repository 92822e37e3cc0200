"""What a run begins with: the model that it goes on from, and its tokenizer."""

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
from m3jax.hub.folder import open_model
from m3jax.pipeline.stage import Train


@dataclass(frozen=True)
class Origin:
    """The model to go on from.

    Attributes:
        tokenizer: of the model.
        read: puts its parameters on a mesh.
    """

    tokenizer: Tokenizer
    read: Callable[[Mesh], Params]


def open_origin(stage: Train) -> tuple[Train, Origin | None]:
    """Open the model that a stage goes on from; its parameters are not read yet.

    Args:
        stage: the config.

    Returns:
        The stage in the shape of the model and with its prompts, and the model; the
        stage as it is, and None, where it starts from nothing.

    Raises:
        InputError: there is no such model, or the stage names a tokenizer too.
    """
    if stage.init is None:
        return stage, None
    if stage.tokenizer.pretrained is not None:
        raise InputError(
            "the tokenizer of the model to go on from",
            stage.tokenizer.pretrained,
            where="tokenizer.pretrained",
            do="Leave it out with --init.",
        )
    model, read = open_model(stage.init, default_pooling=stage.model.pooling)
    wanted = stage.model.encoder
    encoder = dataclasses.replace(
        model.config.encoder, dtype=wanted.dtype, remat=wanted.remat
    )
    prompts = stage.data.prompts
    if prompts == Prompts():
        prompts = model.prompts
    stage = dataclasses.replace(
        stage,
        model=dataclasses.replace(model.config, encoder=encoder),
        data=dataclasses.replace(stage.data, prompts=prompts),
    )
    return stage, Origin(model.tokenizer, read)


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
