"""What a run is trained and measured on, and how it is cut into batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from m3jax.data.prompts import Prompts

Fill = Literal["mask", "repeat", "random"]


@dataclass(frozen=True)
class Dataset:
    """One data set of a mixture, and how its rows become queries and passages."""

    path: str = ""
    """A file (.jsonl, .txt, .parquet, .array_record; lines also as .gz and .zst), a
    glob, a folder (saved by datasets, prepared, or in BEIR's layout), a hub id, hf:ID,
    tfds:NAME, a URL such as gs://..., or "builtin"."""
    name: str = ""
    """In tables and plots; by default the path."""
    layout: str = "auto"
    """What the columns mean: auto looks at the first row."""
    columns: tuple[str, ...] = ()
    """Columns to read in the order anchor, positive, negatives; for other names than
    the known ones."""
    subset: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Part of a hub or TFDS data set, or file of judgements of a BEIR folder."""
    weight: float | None = None
    """Share of the steps, relative to the other data sets; by default each row comes
    once an epoch."""
    task: str = ""
    """Name in data.instructions: one of them is drawn for each row."""
    prompts: tuple[str, ...] = ()
    """Texts to put before a query, one drawn for each row, in place of a task."""
    symmetric: bool = False
    """Passages are texts of the same kind as queries, and get the query's prompt."""
    in_batch_negatives: bool = True
    """Whether passages of other queries are negatives; off for classes."""
    negatives: int | None = None
    """Hard negatives of each query; by default data.negatives."""
    fill: Fill = "mask"
    """What stands where a row has too few negatives: nothing, its own again, or random
    passages of the data set."""
    positive: Literal["random", "first"] = "random"
    """Which of several positives."""
    labels: Literal["text", "same"] = "text"
    """The positive of a labelled text: the text of its label, or another text of the
    same label."""
    teacher_scores: bool = False
    """Whether pos_scores and neg_scores are used; then every row must have them."""
    shuffle_ratio: float = 0.0
    """Share of the passages of more than 100 characters that are cut in three pieces
    and shuffled (BGE-M3: 0.002)."""
    query_length: int | None = None
    """Tokens kept of a query; by default data.query_length."""
    passage_length: int | None = None
    """Tokens kept of a passage; by default data.passage_length."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read ends the program, or is counted and left out. Of a BEIR
    folder queries are rows; a bad passage, id or judgement ends the program."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained and evaluated on, and how it is cut into batches."""

    train: str = "builtin"
    """Training rows: a file, glob, folder, hub id or URL, as in Dataset.path;
    "builtin" is Python's own standard library."""
    reading: Dataset = field(default_factory=Dataset)
    """How train is read; its path and weight stay empty."""
    mixture: tuple[Dataset, ...] = ()
    """Several data sets, in place of train."""
    dev: str | None = None
    """Set that selects the best checkpoint: a BEIR folder, or graded pairs (two texts
    and a score: a file, glob, saved folder or hf:ID); by default 2 % of the training
    queries, held out ("builtin" has a part of its own)."""
    test: str | None = None
    """Set that is scored before and after training, and never selects: a BEIR folder,
    graded pairs, or "builtin"."""
    batch_size: int = 128
    """Queries in a batch, over all devices."""
    batch_tokens: int = 0
    """Tokens in a batch, padding included, in place of batch_size: short rows then come
    in larger batches."""
    negatives: int = 0
    """Hard negatives of each query, drawn from neg."""
    query_length: int = 64
    """Tokens kept of a query."""
    passage_length: int = 256
    """Tokens kept of a passage."""
    pair_length: int = 512
    """Tokens kept of a query and a passage together, for a reranker."""
    shapes: int = 10
    """Most shapes (query length, passage length) that batches are padded to, each
    compiled once; they are chosen by the lengths of the data."""
    length_multiple: int = 8
    """Lengths of these shapes are multiples of it; 8 suits a TPU."""
    buckets: tuple[int, ...] = ()
    """Lengths to pad to, in place of shapes found from the data: a row goes by its
    longest text, query or passage (BGE-M3)."""
    bucket_sizes: tuple[int, ...] = ()
    """Queries in a batch of each bucket, in place of batch_size."""
    preset: Literal["", "bge_m3_unsupervised", "bge_m3_finetune"] = ""
    """Buckets and their sizes as published (BGE-M3, Table 9)."""
    homogeneity: float = 1.0
    """Share of a batch that comes from one data set; the rest is mixed (KaLM); 0 mixes
    all rows."""
    temperature: float | None = None
    """Data set i gets a share of the steps in proportion to rows_i^(1/temperature), in
    place of weights; 1 is by size, larger is more even."""
    prompts: Prompts = field(default_factory=Prompts)
    """Text before queries and passages, in training and ever after."""
    instructions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task -> instructions, which take the place of {task} in prompts.task."""
    workers: int = 1
    """Processes that prepare batches; 0 prepares them between steps."""
    cache: str | None = None
    """Folder for indexes and unpacked files [default: ~/.cache/m3jax/data]; "beside"
    puts them beside each file."""
