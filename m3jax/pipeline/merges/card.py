"""What the card of a merged model says about where it is from."""

from collections.abc import Sequence

from m3jax.pipeline.merges.parents import Parent
from m3jax.pipeline.merges.recipe import Recipe

_WORDS = {
    "slerp": "Spherical interpolation (slerp), along the arc between two models.",
    "multi_slerp": "Interpolation of several models on the sphere of their directions.",
    "linear": "A weighted mean of models.",
    "task_arithmetic": "The weighted changes of models, added to their base.",
    "ties": "What is large in the changes of models, and what they agree on, added to "
    "their base (TIES).",
}


def merged_card(
    method: str,
    recipe: Recipe,
    parents: Sequence[Parent],
    *,
    base: Parent | None = None,
    keep: Sequence[str] = (),
    more: str = "",
) -> str:
    """Markdown for the model card: how, of what, with which numbers.

    Args:
        method: its name.
        recipe: what it was given.
        parents: the models, with fingerprints.
        base: what they were trained from, where the method has it.
        keep: regexes of what was left as in the first.
        more: scores.

    Returns:
        A section.
    """
    told = {"method": method, **recipe.told}
    if keep:
        told["as in the first model"] = ", ".join(f"`{one}`" for one in keep)
    rows = [
        (f"{number}. {one.name}", f"{weight:.4g}", one)
        for number, (one, weight) in enumerate(
            zip(parents, recipe.weights, strict=True), start=1
        )
    ]
    if base is not None:
        rows.insert(0, (f"base: {base.name}", "", base))
    lines = [
        *("## Merged", "", _WORDS[method], ""),
        *("| | |", "| --- | --- |"),
        *(f"| {name} | {value} |" for name, value in told.items()),
        *("", "| Model | Weight | Fingerprint |", "| --- | ---: | --- |"),
        *(f"| {name} | {weight} | `{x.fingerprint}` |" for name, weight, x in rows),
    ]
    return "\n".join([*lines, "", more.strip()]).rstrip() + "\n"
