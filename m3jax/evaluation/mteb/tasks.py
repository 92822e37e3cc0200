"""What a task of mteb says about its texts, and what of mteb itself is needed here."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

from m3jax.core.errors import InputError
from m3jax.data.prompts import TASK, Prompts, query_prompt


def part(name: str) -> Any:
    """Import a module of mteb.

    Args:
        name: e.g. "types".

    Returns:
        The module.

    Raises:
        InputError: mteb, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(f"mteb.{name}")
    except ModuleNotFoundError as error:
        raise InputError(
            "mteb 2.20 or later",
            f"no module {error.name}",
            where="m3jax.evaluation.mteb",
            do='Run `pip install "m3jax[mteb]"`.',
        ) from None


def texts(batches: Iterable[Mapping[str, Any]], *, where: str) -> list[str]:
    """Take the texts out of what mteb's data loaders give.

    Args:
        batches: each a dictionary of columns.
        where: name of the task.

    Returns:
        The column "text": title and body of a document, a query with its instruction.

    Raises:
        InputError: the task is one of images or sound.

    Example:
        >>> texts([{"text": ["a", "b"]}, {"text": ["c"]}], where="task")
        ['a', 'b', 'c']
    """
    found: list[str] = []
    for batch in batches:
        if "text" not in batch:
            raise InputError("texts", ", ".join(batch) or "nothing", where=where)
        found += batch["text"]
    return found


@dataclass(frozen=True)
class Wording:
    """What stands before the texts of a task.

    A text of a symmetric task (STS, classification, clustering, bitext), for which mteb
    has no prompt type, is worded as a query.

    Attributes:
        own: the prompts of the model.
        prompts: whole prompts in place of the model's own; a key is, the first that is
            there, task-type, task, kind-type, kind or type, as in mteb: ArguAna-query,
            ArguAna, Retrieval-document, STS, query. Types are query and document.
        tasks: what a task is for, in place of what mteb says; a key is a task, a kind
            or query. For models that take an instruction.

    Raises:
        InputError: there are tasks, and the model takes no instruction.
    """

    own: Prompts
    prompts: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tasks:
            query_prompt(self.own, next(iter(self.tasks.values())))

    def before(self, metadata: Any, prompt_type: Any) -> str:
        """The prompt of a text.

        Args:
            metadata: mteb's, of the task.
            prompt_type: mteb's, or None for a symmetric task.

        Returns:
            The text's prompt.
        """
        types = part("types").PromptType
        kind = types.query if prompt_type is None else prompt_type
        find = part("models.abs_encoder").get_prompt_name
        name = find(dict(self.prompts), metadata, kind)
        if name is not None:
            return self.prompts[name]
        if kind == types.document:
            return self.own.passage
        told = instruction(metadata, self.tasks) if TASK in self.own.task else ""
        return query_prompt(self.own, told or None)

    @property
    def used(self) -> bool:
        """Whether anything stands before a text of some task."""
        own = self.own
        words = (own.query, own.passage, own.task, *self.prompts.values())
        return any(words)

    def digest(self) -> str | None:
        """8 hex digits of what is not the model's own; None where there is nothing."""
        changed = sorted(self.prompts.items()), sorted(self.tasks.items())
        if not any(changed):
            return None
        return blake2b(repr(changed).encode(), digest_size=4).hexdigest()


def instruction(metadata: Any, tasks: Mapping[str, str]) -> str:
    """Say what a task is for, in a sentence.

    Args:
        metadata: mteb's, of the task.
        tasks: task, kind or "query" -> sentence, in place of mteb's own.

    Returns:
        The sentence; empty where mteb has none.
    """
    base = part("models.abs_encoder").AbsEncoder
    # All that the method looks at of its model.
    asks = SimpleNamespace(
        prompts_dict=dict(tasks),
        prompt_priority=getattr(base, "prompt_priority", None),
    )
    try:
        return base.get_instruction(asks, metadata, part("types").PromptType.query)
    except KeyError:  # so mteb 2.20 of a task that it has not itself
        return ""
