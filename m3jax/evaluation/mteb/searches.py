"""Searches with every head of a model, as mteb takes them, from one encoding."""

from collections.abc import Mapping, Sequence
from typing import Any, final

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation.mteb.meta import UNNAMED, Kind, model_meta, own_revision
from m3jax.evaluation.mteb.rankings import Mode, Rankings, modes_of
from m3jax.evaluation.mteb.tasks import Wording, part, texts
from m3jax.evaluation.retrieval import Results
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import WEIGHTS

_BATCH = 1_024  # rows that mteb's data loader gives at once
_KIND: dict[Mode, Kind] = {
    "dense": "dense",
    "sparse": "sparse",
    "multivec": "late-interaction",
    "hybrid": "hybrid",
}


@final
class Searcher:
    """Retrieval and reranking tasks by one head or all: mteb's search protocol.

    dense and sparse search the whole corpus; multivec orders the best passages of
    dense, and hybrid those of dense and of sparse, as `heads.search` says. A reranking
    task's own candidates are ordered by the scores of the mode and nothing else.

    Args:
        embedder: the model.
        mode: dense, sparse, multivec or hybrid.
        name: owner/name, for mteb's results.
        revision: commit on the hub; None = a fingerprint of the weights.
        prompts: whole prompts in place of the model's; see `Encoder`.
        tasks: what tasks are for; see `Encoder`.
        weights: of dense, sparse and multivec in hybrid.
        rescored: passages of dense, and of sparse, that multivec and hybrid order.
        batch_tokens: tokens in a batch.

    Attributes:
        mteb_model_meta: what mteb writes into its results; the mode and its options are
            among them, so that modes do not get each other's results.

    Raises:
        InputError: mteb is not installed, the model lacks the head of the mode, or a
            name or task does not fit.
    """

    def __init__(
        self,
        embedder: Embedder,
        mode: Mode,
        *,
        name: str = UNNAMED,
        revision: str | None = None,
        prompts: Mapping[str, str] | None = None,
        tasks: Mapping[str, str] | None = None,
        weights: Sequence[float] = WEIGHTS,
        rescored: int = 200,
        batch_tokens: int | None = None,
    ) -> None:
        self.mode: Mode = mode
        self.rankings = Rankings(
            embedder,
            [mode],
            weights=weights,
            rescored=rescored,
            batch_tokens=batch_tokens,
        )
        self.wording = Wording(embedder.prompts, prompts or {}, tasks or {})
        self._corpus: Any = None
        config = embedder.module.config
        widths = {"sparse": config.encoder.vocab_size, "multivec": config.multivec}
        again = mode in ("multivec", "hybrid")
        self.mteb_model_meta = model_meta(
            embedder,
            name,
            revision,
            _KIND[mode],
            width=widths.get(mode, config.encoder.hidden),
            instructions=self.wording.used,
            options={
                "mode": mode,
                "prompts": self.wording.digest(),
                "rescored": rescored if again else None,
                "weights": [float(x) for x in weights] if mode == "hybrid" else None,
            },
        )

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Take a corpus; `search` encodes it, together with the queries.

        Args:
            corpus: mteb's data set of documents.
            task_metadata: not looked at, as everything that follows.
            hf_split: split.
            hf_subset: subset.
            encode_kwargs: of mteb.
            num_proc: processes.
            kwargs: what a later mteb adds.
        """
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> Results:
        """Search the corpus, or order the candidates of each query.

        Args:
            queries: mteb's data set of queries.
            task_metadata: of the task.
            hf_split: not looked at.
            hf_subset: not looked at.
            top_k: documents of each query, at most.
            encode_kwargs: mteb's, of which show_progress_bar counts.
            top_ranked: query id -> documents to order, in a reranking task.
            num_proc: processes that read the texts.
            kwargs: what a later mteb adds.

        Returns:
            Query id -> document id -> score, the best first.

        Raises:
            InputError: there is no corpus yet, the task has no texts, one id has two
                texts, or a candidate is not in the corpus.
        """
        corpus, self._corpus = self._corpus, None
        if corpus is None:
            raise InputError("index(corpus) before", "no corpus", where="search")
        types = part("types").PromptType
        sides = (queries, types.query), (corpus, types.document)
        asked, searched = (
            _texts(side, prompt_type, task_metadata, num_proc)
            for side, prompt_type in sides
        )
        before = self.wording.before
        return self.rankings.take(
            self.mode,
            task_metadata.name,
            Retrieval(asked, searched, {query: {} for query in asked}),
            Prompts(*(before(task_metadata, prompt_type) for _, prompt_type in sides)),
            top_k,
            top_ranked,
            bool(encode_kwargs.get("show_progress_bar", True)),
        )


def searchers(
    embedder: Embedder,
    *,
    modes: Sequence[Mode] | None = None,
    name: str = UNNAMED,
    revision: str | None = None,
    prompts: Mapping[str, str] | None = None,
    tasks: Mapping[str, str] | None = None,
    weights: Sequence[float] = WEIGHTS,
    rescored: int = 200,
    batch_tokens: int | None = None,
) -> dict[Mode, Searcher]:
    """Search in all modes of a model, every text of a task encoded once.

    The first mode that is evaluated on a task encodes it and searches in all modes. The
    rankings of the others are kept until they are evaluated on the same task, or any
    mode on another one: go through the tasks, and in each through the modes.

    Args:
        embedder: the model.
        modes: dense, sparse, multivec, hybrid; None = all that the model has.
        name: owner/name, for mteb's results.
        revision: commit on the hub; None = a fingerprint of the weights.
        prompts: whole prompts in place of the model's; see `Encoder`.
        tasks: what tasks are for; see `Encoder`.
        weights: of dense, sparse and multivec in hybrid.
        rescored: passages of dense, and of sparse, that multivec and hybrid order.
        batch_tokens: tokens in a batch.

    Returns:
        Mode -> a model that `mteb.evaluate` takes.

    Raises:
        InputError: mteb is not installed, or something does not fit the model.
    """
    part("types")  # before weights are hashed
    if modes is None:
        modes = modes_of(embedder.module.config)
    options: dict[str, Any] = {
        "weights": weights,
        "rescored": rescored,
        "batch_tokens": batch_tokens,
    }
    shared = Rankings(embedder, modes, **options)
    revision = own_revision(embedder) if revision is None else revision
    options |= {"name": name, "revision": revision, "prompts": prompts, "tasks": tasks}
    found: dict[Mode, Searcher] = {
        mode: Searcher(embedder, mode, **options) for mode in modes
    }
    for searcher in found.values():
        searcher.rankings = shared
    return found


def _texts(
    rows: Any, prompt_type: Any, metadata: Any, num_proc: int | None
) -> dict[str, str]:
    """Id -> text as mteb joins it: of title and body, or query and instruction."""
    loader = part("_create_dataloaders").create_dataloader(
        rows,
        task_metadata=metadata,
        prompt_type=prompt_type,
        batch_size=_BATCH,
        num_proc=num_proc,
    )
    found: dict[str, str] = {}
    read = texts(loader, where=metadata.name)
    for name, text in zip(rows["id"], read, strict=True):
        if found.setdefault(name, text) != text:
            where = f"{metadata.name}: {name!r}"
            raise InputError("one text", "two", where=where)
    return found
