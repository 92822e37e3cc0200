"""Text that stands before a query or a passage."""

from dataclasses import dataclass

from m3jax.core.errors import InputError

TASK = "{task}"


@dataclass(frozen=True)
class Prompts:
    """What a model wants to read before a text, e.g. E5's "query: "."""

    query: str = ""
    """Before every query."""
    passage: str = ""
    """Before every passage."""
    task: str = ""
    """Before a query whose task is told, with {task} for it; empty where the model
    takes no instruction."""


def query_prompt(prompts: Prompts, task: str | None) -> str:
    r"""What stands before a query of some task.

    Args:
        prompts: of the model.
        task: what the search is for; None takes the model's own query prompt.

    Returns:
        The prompt.

    Raises:
        InputError: the model takes no instruction.

    Example:
        >>> prompts = Prompts(task="Instruct: {task}\nQuery:")
        >>> query_prompt(prompts, "Find the recipe")
        'Instruct: Find the recipe\nQuery:'
    """
    if task is None:
        return prompts.query
    if TASK not in prompts.task:
        raise InputError(
            "no task, because this model takes no instruction",
            repr(task),
            where="task",
            do="prompt= puts any text before the queries.",
        )
    return prompts.task.replace(TASK, task)
