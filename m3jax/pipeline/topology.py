"""Does a stage fit on a slice of TPUs, and how fast could it be: without a TPU."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh
from m3jax.core.types import Reads
from m3jax.data import batching, presets
from m3jax.data.prompts import Prompts
from m3jax.data.shapes import Shape
from m3jax.data.training_sets import datasets
from m3jax.data.words import stand_in
from m3jax.nn import zoo
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import counting
from m3jax.pipeline.build import build
from m3jax.pipeline.origin import in_shape_of, open_origin
from m3jax.pipeline.recipes import stages_of
from m3jax.pipeline.stage import SCRATCH, Train, check, with_dropout
from m3jax.pipeline.topology_tables import show, to_json
from m3jax.training import chips
from m3jax.training.abstract import abstract_batch, lengths_read
from m3jax.training.topology import BucketReport, compile_report, devices


def tell(
    stages: Mapping[str, Train], topology: str, *, as_json: bool, config: str | Path
) -> bool:
    """Check every stage for a slice, and print what was found.

    Args:
        stages: name -> config, in their order.
        topology: name of the slice.
        as_json: print JSON, in place of tables.
        config: their file.

    Returns:
        Whether all of it fits.
    """
    found, shaped = {}, in_shape(stages, config)
    for name, stage in shaped.items():
        found[name] = reports = check_topology(stage, topology)
        if not as_json:
            print(f"stage {name}")
            show(reports, stage, topology)
    if as_json:
        told = {name: to_json(reports, shaped[name]) for name, reports in found.items()}
        print(json.dumps(told, indent=2))
    return all(one.fits for reports in found.values() for one in reports)


def check_topology(stage: Train, topology: str) -> list[BucketReport]:
    """Compile the step of every bucket of a stage for a slice of TPUs.

    A teacher that is run beside it is not counted. No data is opened: shapes are those
    of the buckets or the preset, or one of the whole query_length and passage_length,
    or pair_length.

    Args:
        stage: the config, in the shape of its model; see `in_shape`.
        topology: name of the slice, such as v5e:4x4.

    Returns:
        A report a bucket, shortest first.

    Raises:
        InputError: no such slice, a mesh that does not multiply to its chips, a batch
            that they do not divide, or a model that the zoo does not know.
    """
    return list(each_bucket(stage, topology))


def _all(shape: Shape) -> bool:
    del shape
    return True


def each_bucket(
    stage: Train, topology: str, *, wanted: Callable[[Shape], bool] = _all
) -> Iterator[BucketReport]:
    """As `check_topology`, of wanted shapes, each report as soon as it is there."""
    check(stage)
    found = devices(topology)
    chip, mesh = chips.find(topology), make_mesh(stage.mesh, found)
    words = stand_in(stage.model.encoder.vocab_size)
    built = build(stage, mesh, words, stage.steps)
    reads, sets = built.objective.reads, datasets(stage.data)
    teacher = bool(stage.teacher.model) or any(one.teacher_scores for one in sets)
    own = (one.negatives for one in sets)
    group = 1 + max(stage.data.negatives if one is None else one for one in own)
    for shape, rows in buckets(stage, mesh, reads=reads, group=group):
        if not wanted(shape):
            continue
        query, passage = shape.query_length, shape.passage_length
        batch = abstract_batch(
            mesh,
            rows,
            group,
            **lengths_read(reads, query, passage),
            teacher_scores=teacher,
        )
        counted = counting.count(stage, shape, rows, mesh, group=group, reads=reads)
        yield compile_report(
            built.step, built.like, batch, chip, counted, chips=mesh.size
        )


def in_shape(
    stages: Mapping[str, Train], config: str | Path, *, seen: tuple[str, ...] = ()
) -> dict[str, Train]:
    """Stages in the shapes of the models that they go on from.

    A model that is not here is one that `nn.zoo` knows, or that another recipe will
    have made in its run folder.

    Args:
        stages: name -> config, in their order.
        config: their file.
        seen: runs that were asked for on the way here, which none may go on from.

    Returns:
        The same stages; nothing is read or fetched.

    Raises:
        InputError: no table and no recipe knows a model.

    Example:
        >>> stages = {"train": Train(init="BAAI/bge-m3")}
        >>> in_shape(stages, "configs/mine.py")["train"].model.encoder.layers
        24
    """
    found: dict[str, Train] = {}
    before: Train | None = None
    for name, stage in stages.items():
        if stage.init is None and before is not None:
            stage = in_shape_of(stage, before.model, before.data.prompts)
        elif stage.init not in (None, SCRATCH):
            stage = _going_on(stage, config, seen)
        found[name] = before = with_dropout(stage)
    return found


def _going_on(stage: Train, config: str | Path, seen: tuple[str, ...]) -> Train:
    """The stage in the shape of the model that it goes on from, which is here or not.

    Raises:
        InputError: it is not here, nor known.
    """
    assert stage.init is not None
    if Path(stage.init).exists():
        origin = open_origin(stage)
        assert origin is not None
        return in_shape_of(stage, origin.config, origin.prompts)
    if stage.init not in seen and (recipe := stages_of(stage.init, config)):
        path, before = recipe
        shaped = in_shape(before, path, seen=(*seen, stage.init))
        last = list(shaped.values())[-1]
        return in_shape_of(stage, last.model, last.data.prompts)
    reranks = isinstance(stage.model, RerankerConfig)
    try:
        published = zoo.ZOO.get(stage.init)
        if published and isinstance(published.config, RerankerConfig) == reranks:
            return in_shape_of(stage, published.config, Prompts())
        encoder = zoo.find_encoder(stage.init)
    except InputError as error:
        raise InputError(
            "a model that is here, that a recipe beside this one makes, or that is "
            "published and known",
            stage.init,
            where="init",
            do=f"For this check, name one of the same sizes: --init NAME. {error.do}",
        ) from None
    # How an encoder's states become a vector or a score, the stage says.
    model = dataclasses.replace(stage.model, encoder=encoder)
    return in_shape_of(stage, model, Prompts())


def buckets(
    stage: Train, mesh: Mesh, *, reads: Reads = "apart", group: int = 1
) -> list[tuple[Shape, int]]:
    """Shapes that batches of a stage come in, and their queries, without its data.

    Args:
        stage: the config.
        mesh: the devices.
        reads: what the objective is given of a row; of pairs read together the
            passage_length is that of both.
        group: passages of each query.

    Returns:
        Those that texts of its lengths can come into; sizes of a preset and of a token
        budget are multiples of what the devices ask for.

    Raises:
        InputError: a size that the devices do not divide, or texts longer than the last
            bucket whose size is given.

    Example:
        >>> from m3jax.core.mesh_config import MeshConfig
        >>> from m3jax.data.config import DataConfig
        >>> mesh, data = make_mesh(MeshConfig()), DataConfig(batch_size=64)
        >>> buckets(Train(data=data), mesh)
        [(Shape(query_length=64, passage_length=256), 64)]
    """
    data = stage.data
    multiple = batch_shards(mesh) * stage.sub_batches.count
    edges, sizes = data.buckets, data.bucket_sizes
    if data.preset:
        edges = presets.BGE_M3_LENGTHS
        sizes = presets.rounded_up(presets.SIZES[data.preset], multiple)
    alone = reads == "apart"
    length = data.pair_length if reads == "together" else data.passage_length
    own = {
        "query": [one.query_length for one in datasets(data)],
        "passage": [one.passage_length for one in datasets(data)],
    }
    query = max([data.query_length, *(x for x in own["query"] if x)])
    if reads != "together":
        length = max([length, *(x for x in own["passage"] if x)])
    longest = max(query * alone, length)
    if edges and sizes:
        batching.check_longest(longest, edges)
    elif edges and longest > edges[-1]:
        edges = (*edges, longest)  # which longer rows get
    used = [i for i in range(len(edges)) if i == 0 or edges[i - 1] < longest]
    shapes = [Shape(min(query, edges[i]) * alone, edges[i]) for i in used]
    found = []
    for i, shape in enumerate(shapes or [Shape(query * alone, length)]):
        if sizes:
            rows = sizes[i]
        elif data.batch_tokens:
            fit = int(data.batch_tokens / shape.tokens(group))
            rows = max(1, fit // multiple) * multiple
        else:
            rows = data.batch_size
        if rows % multiple:
            raise InputError(
                f"a batch that {multiple} shards (data x fsdp) x sub-batches divide",
                f"{rows}",
                where="data.batch_size",
                do=f"A multiple of {multiple} fits.",
            )
        found.append((shape, rows))
    return found
