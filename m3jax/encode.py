"""`python -m m3jax.encode --model M --input big.jsonl --output DIR`: embed a corpus.

Three lines open the result:

    from m3jax.inference.shards import open_shards
    shards = open_shards("DIR")
    for shard in shards: print(shard.ids[:3], shard.encoded.dense[:3])
"""

import itertools
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from m3jax.core import cli, config
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig

if TYPE_CHECKING:
    from m3jax.inference.embedder import Embedder

PROG = "python -m m3jax.encode"
DESCRIPTION = (
    "Embed a corpus that may be larger than memory. The same command run again goes on "
    "where it stopped. Example: python -m m3jax.encode --model BAAI/bge-m3 "
    "--input corpus.jsonl.gz --output embeddings --outputs dense sparse"
)
_SHARD, _MULTIVEC_SHARD = 100_000, 2_000


@dataclass(frozen=True)
class Encode:
    """What to embed, with what, and where to."""

    model: str
    """A hub id, a model folder or a finished run."""
    input: str
    """The texts: a .jsonl or .jsonl.gz file with _id, text and perhaps title, a BEIR
    folder, a text file with a passage a line, or - for a pipe of either kind."""
    output: str
    """The folder to write. After a stop, the same command continues it."""
    outputs: tuple[Literal["dense", "sparse", "multivec"], ...] = ("dense",)
    """Which embeddings; one pass gives them all. Sparse and multivec need a model with
    these heads, as BGE-M3."""
    kind: Literal["passage", "query"] = "passage"
    """What the texts are: it decides which of the model's prompts goes before them."""
    task: str | None = None
    """What the search is for, in a sentence; for queries of a model that takes an
    instruction, as Qwen3-Embedding."""
    dim: int | None = None
    """Numbers kept of each dense vector, for a model trained with Matryoshka; fewer
    need less disk and find a little less [default: all]."""
    max_length: int | None = None
    """Tokens kept of each text; time and memory grow with it [default: as the model
    says]."""
    batch_tokens: int | None = None
    """Tokens in a batch. Fewer if the device runs out of memory [default: what is
    fast: 16,384 a device, 1,024 on a CPU]."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation. bfloat16 is faster on an accelerator, and takes half the
    memory; cosines then change by about 0.001."""
    pooling: Literal["cls", "mean", "last", "mcls"] | None = None
    """How token states become one vector; mcls is for long texts and a model with cls
    [default: as the model says]."""
    like: str | None = None
    """Hub id of a known model whose pooling and prompts hold for a local folder that
    does not say, e.g. intfloat/e5-base-v2."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    shard_size: int | None = None
    """Texts that are encoded and written at once; they and their embeddings must fit
    in memory twice, and a stop loses no more than these [default: 100,000, or 2,000
    with multivec, where a text of 512 tokens can take 2 MB]."""
    fresh: bool = False
    """Remove what an earlier command wrote into the folder, and start anew."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Encode, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    _check(flags)

    from m3jax.core.progress import bar
    from m3jax.data import corpora

    # The first texts before the model, which may take minutes.
    records = corpora.passages(flags.input)
    records = itertools.chain([next(records)], records)
    terminal = sys.stderr.isatty()
    total = corpora.count_lines(flags.input) if terminal else None

    from m3jax.inference import shards

    embedder = _load(flags)
    multivec = "multivec" in flags.outputs
    size = flags.shard_size or (_MULTIVEC_SHARD if multivec else _SHARD)
    count = cut = encoded = 0
    start = time.perf_counter()
    with bar("encode", total, "texts") as advance:
        found = shards.encode_to(
            embedder,
            records,
            flags.output,
            shard_size=size,
            kind=flags.kind,
            outputs=flags.outputs,
            task=flags.task,
            dim=flags.dim,
            max_length=flags.max_length,
            batch_tokens=flags.batch_tokens,
            fresh=flags.fresh,
            progress=advance,
            say=_say,
        )
        for shard in found:
            count, cut = count + shard.count, cut + shard.cut
            encoded += 0 if shard.found else shard.count
            if not terminal:
                was = "found" if shard.found else "encoded"
                _say(f"shard {shard.folder.name}: {shard.count:,} texts {was}")
    seconds = time.perf_counter() - start
    before = f" ({count - encoded:,} were there)" if count > encoded else ""
    speed = f", {encoded / seconds:,.0f} texts/s" if encoded else ""
    longer = f", {cut:,} were too long and cut" if cut else ", none cut"
    print(f"{flags.output}: {count:,} texts{before}{longer}{speed}")


def _check(flags: Encode) -> None:
    for name in ("shard_size", "batch_tokens", "max_length", "dim"):
        number = getattr(flags, name)
        if number is not None and number < 1:
            where = f"--{name.replace('_', '-')}"
            raise InputError("a positive number", f"{number}", where=where)
    if not flags.outputs:
        raise InputError("dense, sparse or multivec", "none", where="--outputs")
    if flags.task is not None and flags.kind == "passage":
        raise InputError("--kind query with it", "passage", where="--task")


def _load(flags: Encode) -> "Embedder":
    from m3jax.core.mesh import inference_mesh
    from m3jax.inference.embedder import Embedder

    return Embedder.load(
        flags.model,
        dtype=flags.dtype,
        pooling=flags.pooling,
        like=flags.like,
        revision=flags.revision,
        mesh=inference_mesh(flags.mesh),
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
