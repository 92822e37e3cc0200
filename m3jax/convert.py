"""`python -m m3jax.convert INPUT OUTPUT`: any layout in, one that all clients open."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from m3jax.core import cli, config
from m3jax.core.errors import InputError

if TYPE_CHECKING:
    from m3jax.hub import folder, reranker

PROG = "python -m m3jax.convert"
DESCRIPTION = (
    "Write any model that m3jax opens as a folder that transformers, "
    "sentence-transformers and, with its heads, FlagEmbedding open as it is. "
    "Example: python -m m3jax.convert BAAI/bge-m3 folder --dtype bfloat16"
)
_ROWS = (
    "Position rows were extended to {rows:,} ({how}); how BGE-M3 got its own is not "
    "published. Train the model on long texts before you use it for such."
)


@dataclass(frozen=True)
class Convert:
    """What to read, and what to write."""

    input: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """A hub id; a folder of Hugging Face, sentence-transformers or FlagEmbedding, with
    safetensors or pytorch_model.bin; or a finished run."""
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """A new folder, or an earlier export, which is replaced."""
    kind: Literal["embedding", "reranker"] | None = None
    """What the model is [default: as its files say]."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that are written; bfloat16 halves the file and loses digits."""
    pooling: Literal["cls", "mean", "last"] | None = None
    """How token states become one vector [default: as the model says]."""
    like: str | None = None
    """Hub id of a known model whose pooling and prompts hold for a local folder that
    does not say, e.g. intfloat/e5-base-v2."""
    max_positions: int | None = None
    """Rows of a longer position table, for a BERT or XLM-R that is to be trained on
    long texts, e.g. 8194; needs --position-init."""
    position_init: Literal["tile", "interpolate"] | None = None
    """Where the new rows come from: the old ones again and again, or stretched."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(
        Convert, sys.argv[1:], prog=PROG, description=DESCRIPTION
    )
    if Path(flags.input).resolve() == Path(flags.output).resolve():
        raise InputError("another folder than the input", "the same", where="OUTPUT")
    if (flags.max_positions is None) != (flags.position_init is None):
        found = "only one of them"
        raise InputError("--max-positions with --position-init", found, where=PROG)
    # No device is used, so none is taken from who else is on this machine.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from m3jax.hub.kind import kind

    decided = flags.kind or kind(flags.input, revision=flags.revision)
    model = _reranker(flags) if decided == "reranker" else _embedding(flags)
    _report(decided, model, Path(flags.output), flags)


def _reranker(flags: Convert) -> "reranker.Model":
    from m3jax.hub import reranker

    for name in ("pooling", "like", "max_positions"):
        if getattr(flags, name) is not None:
            where = f"--{name.replace('_', '-')}"
            raise InputError("an embedding model for it", "a reranker", where=where)
    model = reranker.load(flags.input, dtype=flags.dtype, revision=flags.revision)
    reranker.save(model, flags.output)
    return model


def _embedding(flags: Convert) -> "folder.Model":
    from m3jax.hub import folder

    model = folder.load(
        flags.input,
        dtype=flags.dtype,
        pooling=flags.pooling,
        like=flags.like,
        revision=flags.revision,
        max_positions=flags.max_positions,
        position_init=flags.position_init,
    )
    folder.save(model, flags.output, card=_positions(flags))
    return model


def _positions(flags: Convert) -> str:
    if flags.max_positions is None:
        return ""
    return _ROWS.format(rows=flags.max_positions, how=flags.position_init)


def _report(kind: str, model: Any, out: Path, flags: Convert) -> None:
    """Say what was written, and how each client opens it."""
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    encoder = type(model.config.encoder).__name__.removesuffix("Config")
    print(f"{kind} model, {encoder}, {count:,} parameters in {flags.dtype}")
    if kind == "embedding":
        print(f"outputs: {', '.join(model.config.outputs)}; {model.config.pooling}")
    else:
        print(f"score: {model.config.head}")
    print(f"longest text: {model.max_length:,} tokens")
    if _positions(flags):
        print(_positions(flags))
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(f"  {path.stat().st_size:>15,}  {path.relative_to(out)}")
    for client, call in _calls(kind, model):
        print(f"{client}: {call.replace('OUT', repr(str(out)))}")


def _calls(kind: str, model: Any) -> list[tuple[str, str]]:
    c = model.config
    if kind == "reranker":
        calls = [("m3jax", "m3jax.Reranker.load(OUT)")]
        if c.head != "classifier":
            name = "AutoModelForCausalLM"
            return [*calls, ("transformers", f"{name}.from_pretrained(OUT)")]
        name = "AutoModelForSequenceClassification"
        return [
            *calls,
            ("transformers", f"{name}.from_pretrained(OUT)"),
            ("sentence-transformers", "CrossEncoder(OUT)"),
            ("FlagEmbedding", "FlagReranker(OUT)"),
        ]
    calls = [
        ("m3jax", "m3jax.Embedder.load(OUT)"),
        ("sentence-transformers", "SentenceTransformer(OUT)"),
        ("transformers", "AutoModel.from_pretrained(OUT)"),
    ]
    # FlagEmbedding has both heads, and token vectors as wide as the states.
    if c.sparse and c.multivec == c.encoder.hidden:
        calls.append(("FlagEmbedding", "BGEM3FlagModel(OUT)"))
    return calls


if __name__ == "__main__":
    cli.run(main)
