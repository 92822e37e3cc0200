"""The files that sentence-transformers lays around a Hugging Face folder.

They are written in the form of its releases before 5.4, which all later ones read
too, as do other servers of embedding models.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from m3jax import __version__
from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.ops.pooling import Pooling

# Their pooling -> ours; what has no counterpart is refused.
_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
# Their pooling -> its flag in the old form.
_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_ANGLES = ("cosine", None)
_TANH = "torch.nn.modules.activation.Tanh"
DENSE = "2_Dense"  # where `contents` puts the linear layer


@dataclass(frozen=True)
class Layout:
    """What the files around the weights say.

    Attributes:
        pooling: how the dense vector comes from the states.
        prompts: what stands before queries and passages.
        encoder: path of the weights, relative to the folder.
        max_length: longest text in tokens; None where the files do not limit it.
        lowercase: whether texts are lowercased before the tokenizer sees them.
        dense: path of a linear layer with tanh after the pooling; None = no such.
    """

    pooling: Pooling | None = "mean"
    prompts: Prompts = field(default_factory=Prompts)
    encoder: str = ""
    max_length: int | None = None
    lowercase: bool = False
    dense: str | None = None


def contents(layout: Layout, *, width: int) -> dict[str, Any]:
    """Path in the folder -> JSON value, for `read` and for sentence-transformers.

    Args:
        layout: what to say; `encoder` must be the folder itself.
        width: length of the dense vector.

    Returns:
        The files; Normalize has one, because git keeps no empty folder.

    Example:
        >>> list(contents(Layout(), width=4))[:2]
        ['modules.json', '1_Pooling/config.json']
    """
    kinds = [kind for kind in _MODULES if kind != "Dense" or layout.dense]
    paths = ["", *(f"{at}_{kind}" for at, kind in enumerate(kinds) if at)]
    linear = {
        "in_features": width,
        "out_features": width,
        "bias": True,
        "activation_function": _TANH,
    }
    return {
        "modules.json": [
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for index, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
        **({f"{layout.dense}/config.json": linear} if layout.dense else {}),
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            **{
                flag: _POOLINGS.get(mode) == layout.pooling
                for mode, flag in _FLAGS.items()
            },
        },
        f"{paths[-1]}/config.json": {
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        },
        "sentence_bert_config.json": {
            "max_seq_length": layout.max_length,
            "do_lower_case": layout.lowercase,
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": {"m3jax": __version__},
            "prompts": {
                "query": layout.prompts.query,
                "document": layout.prompts.passage,
            },
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def read(folder: Path) -> Layout:
    """Read what sentence-transformers, or `contents`, wrote into a folder.

    A plain Hugging Face folder, without modules.json, gives no pooling. A folder
    without a Normalize module is taken as well: our vectors always have length 1, and
    cosines stay the same.

    Args:
        folder: where the files are.

    Returns:
        What they say.

    Raises:
        InputError: a file is damaged, leads out of the folder, or asks for something
            that m3jax does not do.
    """
    pooling, encoder, dense, normalized = _read_modules(folder)
    prompts = _read_prompts(folder, normalized)
    path = folder / encoder / "sentence_bert_config.json"
    found = read_json(path) if path.exists() else {}
    max_length = found.get("max_seq_length")
    if max_length is None:  # newer releases write it into the tokenizer's file
        path = folder / encoder / "tokenizer_config.json"
        max_length = (read_json(path) if path.exists() else {}).get("model_max_length")
    max_length = length(max_length, where=str(path))
    return Layout(
        pooling,
        prompts,
        encoder,
        max_length,
        bool(found.get("do_lower_case", False)),
        dense,
    )


def places(folder: Path) -> list[str]:
    """Where the weights are, relative to a folder: the encoder's, and a linear layer's.

    Raises:
        InputError: modules.json is damaged or leads out of the folder.

    Example:
        >>> places(Path("nowhere"))
        ['']
    """
    path = folder / "modules.json"
    modules = _modules(path) if path.is_file() else ()
    weighted = ("Transformer", "Dense")
    found = [inner for kind, inner in modules if kind.rsplit(".", 1)[-1] in weighted]
    return found or [""]


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        kind: type of its value, dict or list.

    Returns:
        The value.

    Raises:
        InputError: there is no such file, or it holds something else.

    Example:
        >>> read_json(Path("nowhere/config.json"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere/config.json: expected a file, found none
    """
    if not path.is_file():
        raise InputError("a file", "none", where=str(path))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or too deep
        raise InputError("JSON", str(error), where=str(path)) from None
    if not isinstance(value, kind):
        name = {dict: "object", list: "list"}[kind]
        raise InputError(f"a JSON {name}", type(value).__name__, where=str(path))
    return value


def _read_modules(folder: Path) -> tuple[Pooling | None, str, str | None, bool]:
    """Pooling, paths of encoder and linear layer, whether vectors are normalised."""
    path = folder / "modules.json"
    if not path.exists():
        return None, "", None, False
    paths: dict[str, str] = {}
    for kind, inner in _modules(path):
        name = kind.rsplit(".", 1)[-1]
        if not kind.startswith("sentence_transformers.") or name not in _MODULES:
            raise InputError(
                f"modules of the kinds {', '.join(_MODULES)}", kind, where=str(path)
            )
        if name in paths:
            raise InputError(
                "each kind of module once", f"{name} twice", where=str(path)
            )
        paths[name] = inner
    order = [kind for kind in _MODULES if kind in paths]
    if list(paths) != order or order[:2] != list(_MODULES[:2]):
        raise InputError(
            "Transformer, Pooling, perhaps Dense and Normalize, in this order",
            ", ".join(paths) or "no module",
            where=str(path),
        )
    pooling = _read_pooling(folder / paths["Pooling"] / "config.json")
    if "Dense" in paths:
        _check_dense(folder / paths["Dense"] / "config.json")
    return pooling, paths["Transformer"], paths.get("Dense"), "Normalize" in paths


def _modules(path: Path) -> Iterator[tuple[str, str]]:
    """Kind and path of every module of a modules.json."""
    for module in read_json(path, list):
        if not isinstance(module, dict):
            raise InputError("a list of objects", repr(module), where=str(path))
        kind, inner = str(module.get("type")), str(module.get("path", ""))
        if not is_inside(inner):
            raise InputError("a path inside the folder", inner, where=str(path))
        yield kind, inner


def _check_dense(path: Path) -> None:
    """Refuse a linear layer that is not SimCSE's."""
    config = read_json(path)
    found = config.get("activation_function"), config.get("bias", True)
    if found != (_TANH, True):
        raise InputError(
            "a linear layer with bias and tanh",
            f"activation {found[0]}, bias {found[1]}",
            where=str(path),
        )
    if config.get("in_features") != config.get("out_features"):
        raise InputError(
            "a linear layer as wide as its input",
            f"{config.get('in_features')} to {config.get('out_features')}",
            where=str(path),
        )


def _read_pooling(path: Path) -> Pooling:
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        # No flag at all is mean, there as here.
        modes = [mode for mode, flag in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [str(mode) for mode in (modes if isinstance(modes, list) else [modes])]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise InputError(
            f"one pooling of {', '.join(_POOLINGS)}",
            " and ".join(modes) or "none",
            where=str(path),
        )
    if config.get("include_prompt") is False:
        raise InputError("pooling over the prompt too", "not", where=str(path))
    return _POOLINGS[modes[0]]


def _read_prompts(folder: Path, normalized: bool) -> Prompts:
    """Prompts, from a file that is checked for what would change the scores."""
    path = folder / "config_sentence_transformers.json"
    if not path.exists():
        return Prompts()
    config = read_json(path)
    if config.get("truncate_dim") is not None:
        raise InputError(
            "whole vectors",
            f"truncate_dim {config['truncate_dim']}",
            where=str(path),
            do="Set truncate_dim to null and cut the vectors when encoding.",
        )
    similarity = config.get("similarity_fn_name")
    if similarity not in _ANGLES and not normalized:
        raise InputError(
            "cosine similarity for vectors of any length",
            str(similarity),
            where=str(path),
        )
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(
        isinstance(prompt, str | None) for prompt in prompts.values()
    ):
        raise InputError("prompts by name", repr(prompts), where=str(path))
    # The names that encode_query and encode_document look for, in their order.
    passage = (prompts.get(name) for name in ("document", "passage", "corpus"))
    return Prompts(prompts.get("query") or "", next(filter(None, passage), ""))


def is_inside(path: str) -> bool:
    """Whether a path from a file stays inside the folder of that file.

    Example:
        >>> is_inside("1_Pooling"), is_inside("../other"), is_inside("/etc")
        (True, False, False)
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    return not parts.is_absolute() and ".." not in parts.parts and ":" not in path


def length(value: Any, *, where: str) -> int | None:
    """Tokens of the longest text, as a file says; None = no limit.

    Args:
        value: a JSON value; nothing and Infinity are no limit. transformers writes
            1e30.
        where: the file, for messages.

    Returns:
        The length.

    Raises:
        InputError: it is no positive number.

    Example:
        >>> length(512, where="a"), length(None, where="a")
        (512, None)
    """
    if value is None or value == math.inf:
        return None
    if type(value) not in (int, float) or not value >= 1:
        raise InputError("a positive length", repr(value), where=where)
    return int(value)
