"""What a mixture of data sets cannot be."""

from collections.abc import Sequence

from m3jax.core.errors import InputError
from m3jax.data import tokenised, tokenize
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.scan import Kind
from m3jax.data.sources.array_records import Prepared

_AGAIN = "Prepare the data again for this run."


def require_sets(
    sets: Sequence[tuple[str, Dataset, Kind, int]], config: DataConfig
) -> None:
    """Refuse data sets that make no batches together.

    Args:
        sets: name, options, kind and number of rows of each.
        config: of the mixture.

    Raises:
        InputError: names the data set or the option.

    Example:
        >>> require_sets([("a", Dataset("a.jsonl"), "pairs", 3)], DataConfig())
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a: expected at least one batch of 128 training \
rows, found 3. Lower --data.batch-size, or join small data sets to one.
    """
    names = [name for name, *_ in sets]
    for name in names:
        if names.count(name) > 1:
            do = "Give each a name."
            raise InputError("different names", f"{name!r} twice", where=name, do=do)
    for name, dataset, _, count in sets:
        _require_batch(name, count, config)
        if dataset.teacher_scores and dataset.fill == "random":
            raise InputError(
                'fill "mask" or "repeat", because no teacher scored random passages',
                "random",
                where=f"{name}: fill",
            )
    if config.homogeneity == 1:
        return
    kinds = {kind: name for name, _, kind, _ in sets}
    if "scored" in kinds and len(kinds) > 1:
        raise InputError(
            "data sets of one kind, because batches are mixed",
            ", ".join(f"{name} ({kind})" for kind, name in kinds.items()),
            where="data.homogeneity",
            do="With --data.homogeneity 1 each batch comes from one data set.",
        )
    if len({dataset.teacher_scores for _, dataset, _, _ in sets}) > 1:
        raise InputError(
            "teacher scores for all data sets or for none, because batches are mixed",
            "both",
            where="data.homogeneity",
        )


def _require_batch(name: str, count: int, config: DataConfig) -> None:
    if config.batch_tokens or config.preset:
        return
    size = min(config.bucket_sizes or (config.batch_size,))
    if count < size:
        raise InputError(
            f"at least one batch of {size} training rows",
            f"{count}",
            where=name,
            do="Lower --data.batch-size, or join small data sets to one.",
        )


def require_prepared_alike(
    given: Prepared,
    dataset: Dataset,
    tokenizer: tokenize.Tokenizer,
    prompts: tuple[tuple[str, ...], tuple[str, ...]],
    lengths: tuple[int, int],
) -> None:
    """Refuse token ids that were made otherwise than this run would make them.

    Args:
        given: the prepared data set.
        dataset: its options.
        tokenizer: of the run.
        prompts: what may stand before its queries, and before its passages.
        lengths: tokens kept of a query, and of a passage.

    Raises:
        InputError: another tokenizer, other prompts, shorter texts, or an option that
            needs the text.
    """
    if given.tokenizer != tokenised.tokenizer_digest(tokenizer):
        found = "ids of another"
        raise InputError(
            "the tokenizer of this run", found, where=given.name, do=_AGAIN
        )
    if dataset.shuffle_ratio:
        expected = "no shuffle_ratio, because there are only token ids"
        found = f"{dataset.shuffle_ratio}"
        raise InputError(expected, found, where=given.name)
    made = (given.query_prompt, given.passage_prompt)
    if prompts != ((made[0],), (made[1],)):
        wanted = " and ".join(" or ".join(map(repr, some)) for some in prompts)
        raise InputError(
            f"the prompts {wanted}",
            f"{made[0]!r} and {made[1]!r}",
            where=given.name,
            do=_AGAIN,
        )
    for name, most, length, cut in (
        ("query", lengths[0], given.query_length, given.cut_queries),
        ("passage", lengths[1], given.passage_length, given.cut_passages),
    ):
        if cut and length < most:
            raise InputError(
                f"{name} texts of up to {most} tokens",
                f"{cut:,} that were cut to {length}",
                where=given.name,
                do=f"Prepare the data again, or lower --data.{name}-length.",
            )
