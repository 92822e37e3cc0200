"""A reranker as a folder that m3jax and the usual clients open."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from m3jax import __version__
from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.pairs import PairFormat
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import bert, families, fields, model_files, qwen, tensors, weights
from m3jax.hub.card import render_reranker
from m3jax.hub.fetch import fetch
from m3jax.hub.layout import length, read_json
from m3jax.hub.model_files import Give, Part, Where
from m3jax.hub.weights import Names
from m3jax.nn import lora, reranker
from m3jax.nn.bert import BertConfig
from m3jax.nn.layers import Dtype
from m3jax.nn.reranker import RerankerConfig, RerankerModule
from m3jax.nn.zoo import find as find_published

_CLASSIFIER, _CAUSAL = "ForSequenceClassification", "ForCausalLM"
# What a Qwen3-Reranker is asked, unless a call says otherwise.
TASK = find_published("Qwen/Qwen3-Reranker-0.6B").query


@dataclass(frozen=True)
class Model:
    """Everything that turns a query and a passage into a score."""

    config: RerankerConfig
    """Encoder and head."""
    params: Params
    """Their parameters."""
    tokenizer: Tokenizer
    """Texts to ids."""
    max_length: int
    """Longest pair in tokens, special ones counted."""


def load(
    path: str | Path,
    *,
    to: Where = "host",
    dtype: Dtype = "float32",
    revision: str | None = None,
) -> Model:
    """Open a reranker.

    Args:
        path: hub id, Hugging Face folder, or folder of `save`: a BERT or XLM-R for
            sequence classification with one logit, or a Qwen causal language model
            whose "yes" and "no" are the score.
        to: host, device, or the devices of a mesh; see `folder.load`.
        dtype: of parameters and computation.
        revision: of a hub id.

    Returns:
        The model.

    Raises:
        InputError: a file is missing, damaged or does not fit the others, or the
            folder holds another kind of model.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub id \
like BAAI/bge-m3, found neither
    """
    model, read = open_model(path, dtype=dtype, revision=revision)
    return dataclasses.replace(model, params=read(to))


def open_model(
    path: str | Path, *, dtype: Dtype = "float32", revision: str | None = None
) -> tuple[Model, Callable[[Where], Params]]:
    """Read everything of a reranker but its parameters; else as `load`.

    Returns:
        The model, whose params are None, and a function that reads these to where they
        belong.

    Raises:
        InputError: as `load`; what is wrong with the weights shows when they are read.
    """
    model, parts = open_parts(path, dtype=dtype, revision=revision)
    return model, lambda to: model_files.place_all(
        parts(), to, dtype=jax.numpy.dtype(dtype)
    )


def open_parts(
    path: str | Path, *, dtype: Dtype = "float32", revision: str | None = None
) -> tuple[Model, Callable[[], list[Part]]]:
    """As `open_model`, but with a function that opens the file and reads nothing.

    Returns:
        The model, whose params are None, and a function that says where they are.

    Raises:
        InputError: as `open_model`.
    """
    published = model_files.known(path, None)
    folder = model_files.find(fetch(path, revision=revision))
    if (folder / "1_Pooling").is_dir() and (folder / "modules.json").is_file():
        raise InputError(
            "a reranker",
            "an embedding model, with modules.json and a pooling",
            where=str(folder),
            do="m3jax.Embedder opens embedding models.",
        )
    where = str(folder / "config.json")
    content = read_json(folder / "config.json")
    family = families.by_type(content, where=where)
    tokenizer = tokenize.load(folder)
    encoder = dataclasses.replace(family.from_config(content, where=where), dtype=dtype)
    kinds = fields.architectures(content, where=where)
    if family is bert and any(kind.endswith(_CLASSIFIER) for kind in kinds):
        _check_labels(content, where)
        config = RerankerConfig(encoder, "classifier")
    elif family is qwen and any(kind.endswith(_CAUSAL) for kind in kinds):
        config = RerankerConfig(
            encoder,
            "yes_no",
            yes_no_ids=_yes_no(tokenizer, str(folder)),
            tied=bool(content.get("tie_word_embeddings", False)),
        )
    else:
        raise InputError(
            f"a BERT or XLM-R {_CLASSIFIER}, or a Qwen {_CAUSAL}",
            ", ".join(kinds) or "none",
            where=f"{where}: architectures",
            do="m3jax.Embedder opens embedding models.",
        )
    settings = folder / "tokenizer_config.json"
    stated = None
    if settings.is_file():
        stated = read_json(settings).get("model_max_length")
        stated = length(stated, where=str(settings))
    limit = encoder.max_length
    if published is not None:
        limit = min(limit, published.max_length)
    if stated is not None:
        limit = min(limit, stated)
    model_files.check(encoder, tokenizer, limit, where=str(folder))

    def parts() -> list[Part]:
        module = RerankerModule(config)
        shapes = jax.eval_shape(lambda: reranker.init(module, jax.random.key(0)))
        stored, file = tensors.read_weights(folder)
        return [Part(shapes, stored, _names(config, content["model_type"]), str(file))]

    return Model(config, None, tokenizer, limit), parts


def save(
    model: Model,
    folder: str | Path,
    *,
    card: str = "",
    give: Give = weights.tensors,
    max_file: int | None = None,
) -> None:
    """Write a reranker as a folder; it is either whole or not there.

    transformers opens it as AutoModelForSequenceClassification or
    AutoModelForCausalLM, and a classifier also opens as a CrossEncoder of
    sentence-transformers and a FlagReranker of FlagEmbedding. Of several processes all
    have to call this, and the first one writes.

    Args:
        model: what is written.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        card: Markdown for the model card, after what is generated.
        give: makes the published tensors; see `folder.save`.
        max_file: bytes in one file of weights; None = 5 GB.

    Raises:
        InputError: the folder holds other files, or the model contradicts itself.
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder).resolve()
    encoder, tokenizer = model.config.encoder, model.tokenizer
    model_files.check(encoder, tokenizer, model.max_length, where=str(folder))
    params = lora.merge(model.params)
    content = model_files.config_json(encoder, params, tokenizer.pad_id)
    base = content["architectures"][0].removesuffix("Model")
    if model.config.head == "classifier":
        content |= {
            "architectures": [base + _CLASSIFIER],
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "classifier_dropout": None,
        }
    else:
        content |= {
            "architectures": [base + _CAUSAL],
            "tie_word_embeddings": model.config.tied,
        }
    readme = render_reranker(
        model.config,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        max_length=model.max_length,
        text=card,
    )
    names = _names(model.config, content["model_type"])
    if not distributed.first():
        weights.take_part([(params, names)])
        return
    with files.new_folder(folder) as new:
        content = {**content, "m3jax_version": __version__}
        files.write_text(new / "config.json", json.dumps(content, indent=2) + "\n")
        tokenize.save(tokenizer, new, max_length=model.max_length)
        files.write_text(new / "README.md", readme)
        model_files.write_main(new, params, names, folder, give=give, max_file=max_file)


def pair_format(config: RerankerConfig, task: str | None = None) -> PairFormat:
    """How a reranker reads a query and a passage.

    Args:
        config: of the model.
        task: what the search is for; None takes `TASK` where the model reads one.

    Returns:
        The format, for `data.pairs.encode_pairs`.

    Raises:
        InputError: a task was told to a model without instruction.

    Example:
        >>> pair_format(RerankerConfig())
        PairFormat(head='classifier', types=True, task='')
    """
    if config.head == "yes_no":
        return PairFormat("yes_no", task=TASK if task is None else task)
    if task is not None:
        raise InputError(
            "no task, because this model takes no instruction",
            repr(task),
            where="task",
        )
    # XLM-R knows one type, whatever its tokenizer says of pairs.
    encoder = config.encoder
    types = isinstance(encoder, BertConfig) and encoder.type_vocab > 1
    return PairFormat("classifier", types)


def _names(config: RerankerConfig, kind: str) -> Names:
    """Names of the tensors of a model with a task head."""
    family = families.by_config(config.encoder)
    if family is qwen:
        return model_files.names_of(config.encoder, written={"encoder": "model."})
    if kind == "bert":
        modules, prefix = bert.BERT_CLASSIFIER, "bert."
        written = {"encoder": prefix, "classifier.dense": prefix}
    else:
        modules, written = bert.ROBERTA_CLASSIFIER, {"encoder": "roberta."}
    return model_files.names_of(config.encoder, modules=modules, written=written)


def _check_labels(content: Mapping[str, Any], where: str) -> None:
    named = content.get("id2label") or {"0": ""}
    if not isinstance(named, dict):
        raise InputError("number -> label", repr(named), where=f"{where}: id2label")
    labels = content.get("num_labels", len(named))
    if labels != 1:
        raise InputError("one logit", f"{labels} labels", where=where)


def _yes_no(tokenizer: Tokenizer, where: str) -> tuple[int, int]:
    yes, no = (tokenizer.backend.token_to_id(word) for word in ("yes", "no"))
    if yes is None or no is None:
        raise InputError('tokens "yes" and "no"', "none in the vocabulary", where=where)
    assert isinstance(yes, int) and isinstance(no, int)
    return yes, no
