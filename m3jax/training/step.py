"""One training step, as one compiled function."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from m3jax.core.mesh import replicated
from m3jax.core.types import Batch, Params
from m3jax.training.groups import Group
from m3jax.training.objectives.base import Objective
from m3jax.training.optimizer import moving
from m3jax.training.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    like: TrainState,
    *,
    trainable: str = "",
    groups: Sequence[Group] = (),
) -> Step:
    """Compile loss, gradient and update into one donated call.

    The loss is sum(weight * loss) / sum(weight) over the global batch, differentiated
    outside of every `shard_map`, so it is the same on any mesh.

    Args:
        objective: what is minimised.
        tx: the optimizer.
        schedule: its learning rate, for the record.
        mesh: the devices.
        like: what `abstract_state` returned; results are pinned to its shardings.
        trainable: regex of the parameters that are trained; no gradient is computed for
            the others.
        groups: of the optimizer; no gradient is computed for what they freeze either.

    Returns:
        (state, batch) -> (state, metrics); the old state is gone. Metrics are scalars:
        loss, gradient_norm, parameter_norm (after the update), learning_rate, tokens
        and what the objective adds.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, like)

    def step(
        state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rng = jax.random.fold_in(state.rng, state.step)

        def mean_loss(params: Params) -> tuple[jax.Array, Any]:
            params = jax.tree.map(
                lambda leaf, moves: leaf if moves else jax.lax.stop_gradient(leaf),
                params,
                moving(params, trainable, groups),
            )
            terms = objective.loss(params, state.extra, batch, state.step, rng)
            total = jnp.maximum(terms.weight.sum(), 1e-9)

            def mean(x: jax.Array) -> jax.Array:
                return (x * terms.weight).sum() / total

            metrics = {name: mean(x) for name, x in terms.metrics.items()}
            return mean(terms.loss), (metrics, terms.carry)

        (loss, (metrics, carry)), gradient = jax.value_and_grad(
            mean_loss, has_aux=True
        )(state.params)
        # Left alone, gradients may come back laid out otherwise than their parameters.
        gradient = jax.lax.with_sharding_constraint(gradient, layout.params)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            extra=objective.update(params, state.extra, carry),
            rng=state.rng,
        )
        metrics |= {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradient),
            "parameter_norm": optax.tree.norm(params),
            "learning_rate": schedule(state.step),
            "tokens": sum(tokens.mask.sum() for tokens in batch.texts),
        }
        return new, metrics

    def on_mesh(
        state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch)

    return jax.jit(on_mesh, donate_argnums=0, out_shardings=(layout, replicated(mesh)))
