"""A training step compiled ahead of time for a slice of chips that need not be here."""

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from m3jax.core.errors import InputError
from m3jax.core.types import Batch
from m3jax.training.ahead import compile_step, held
from m3jax.training.chips import Chip
from m3jax.training.collectives import Collective, memory_traffic, of_program
from m3jax.training.flops import Flops
from m3jax.training.hlo import parse
from m3jax.training.state import TrainState
from m3jax.training.step import Step

_NO_CLOUD = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_KNOWN = "v4:2x2x4, v5e:4x4, v5p:4x4x4 and v6e:8x8"


@dataclass(frozen=True)
class BucketReport:
    """What a step of one shape asks of each chip; bytes and FLOPs are per chip.

    Attributes:
        query_length: tokens of a query.
        passage_length: tokens of a passage.
        group: passages of a query.
        rows: queries of a batch, over all chips.
        chips: how many.
        chip: of what kind.
        params: bytes of the parameters.
        optimizer: bytes of the optimizer's state.
        extra: bytes of the objective's own state, of the batch, and of what a layout
            adds.
        temporary: bytes that the step needs beside its arguments; where it does not
            fit, what the compiler said it would need in all, less the arguments.
        output: bytes of results that take no argument's place.
        compiled: whether the compiler found memory for it.
        flops: counted from shapes.
        collectives: what is sent; none where it does not fit.
        traffic: bytes read from HBM and written to it, a rough upper figure.
        compile_seconds: here.
    """

    query_length: int
    passage_length: int
    group: int
    rows: int
    chips: int
    chip: Chip
    params: int
    optimizer: int
    extra: int
    temporary: int
    output: int
    compiled: bool
    flops: Flops
    collectives: tuple[Collective, ...]
    traffic: int
    compile_seconds: float

    @property
    def memory(self) -> int:
        """Bytes in all."""
        parts = self.params, self.optimizer, self.extra, self.temporary, self.output
        return sum(parts)

    @property
    def fits(self) -> bool:
        """Whether it was compiled, and is within the memory of the chip."""
        return self.compiled and self.memory <= self.chip.memory

    @property
    def sent(self) -> dict[str, int]:
        """Bytes that a chip sends, by kind of collective."""
        found: dict[str, int] = {}
        for one in self.collectives:
            found[one.kind] = found.get(one.kind, 0) + one.total
        return found

    @property
    def loss_seconds(self) -> float:
        """Of the loss's arithmetic at the peak: float32 in full precision is slower."""
        half = self.flops.loss_half
        return (self.flops.loss - half) / self.chip.flops32 + half / self.chip.flops

    @property
    def compute_seconds(self) -> float:
        """Of all arithmetic at the chip's peak."""
        return self.flops.hardware / self.chip.flops + self.loss_seconds

    @property
    def memory_seconds(self) -> float:
        """Of the traffic with HBM at its peak."""
        return self.traffic / self.chip.bandwidth

    @property
    def communication_seconds(self) -> float:
        """Of all collectives one after the other, over two links; 0 = links not told.

        A ring has a link each way; a collective over several dimensions of the torus
        has more, so this is cautious.
        """
        return sum(self.sent.values()) / self.chip.ring if self.chip.ring else 0.0

    @property
    def overlapped_seconds(self) -> float:
        """Least time of a step: arithmetic, memory and links all at once."""
        return max(self.compute_seconds, self.memory_seconds, self._links)

    @property
    def step_seconds(self) -> float:
        """Time of a step if nothing is computed while anything is sent."""
        return max(self.compute_seconds, self.memory_seconds) + self._links

    @property
    def _links(self) -> float:
        return self.communication_seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs by what the chip could do in `step_seconds`."""
        return self.flops.model / self.chip.flops / max(self.step_seconds, 1e-12)

    @property
    def loss_share(self) -> float:
        """FLOPs of the loss by those of the model, neither recomputed."""
        return self.flops.loss_model / max(self.flops.model, 1e-12)

    @property
    def loss_time_share(self) -> float:
        """Of the arithmetic's time, what the loss takes."""
        return self.loss_seconds / max(self.compute_seconds, 1e-12)

    @property
    def communication_share(self) -> float:
        """Of `step_seconds`, what the links take."""
        return self._links / max(self.step_seconds, 1e-12)


def devices(topology: str) -> Sequence[Any]:
    """Chips of a TPU slice as devices to compile for, without a TPU.

    Args:
        topology: a name that `jax.experimental.topologies` takes.

    Returns:
        The devices.

    Raises:
        InputError: libtpu is not installed, is held by another process, or knows no
            such slice.

    Example:
        >>> devices("v5e")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: topology: expected a chip and its slice, such as \
v4:2x2x4, v5e:4x4, v5p:4x4x4 and v6e:8x8, found v5e
    """
    if not re.fullmatch(r"[\w ]+:\d+(x\d+)*", topology):
        expected = f"a chip and its slice, such as {_KNOWN}"
        raise InputError(expected, topology or "nothing", where="topology")
    # Else libtpu asks the cloud what machine this is, and waits; and complains on the
    # console that it is none.
    for name, value in _NO_CLOUD.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        import libtpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "libtpu, the TPU's compiler",
            "none",
            where="topology",
            do="pip install 'm3jax[tpu]' installs it; a TPU is not needed.",
        ) from None
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):
            raise InputError(
                "libtpu to be free: one process at a time may load it",
                "another process that holds it",
                where="topology",
                do="Wait for it, or where no TPU is attached set "
                "ALLOW_MULTIPLE_LIBTPU_LOAD=1.",
            ) from None
        raise InputError(
            f"a slice that libtpu knows, such as {_KNOWN}",
            f"{topology}: {str(error).splitlines()[0]}",
            where="topology",
        ) from None
    return found.devices


def compile_report(
    step: Step,
    like: TrainState,
    batch: Batch,
    chip: Chip,
    flops: Flops,
    *,
    chips: int,
) -> BucketReport:
    """Compile a step for the devices of its shardings, and read off what it needs.

    Args:
        step: what `make_step` returned.
        like: what `abstract_state` returned.
        batch: what `abstract_batch` returned.
        chip: kind of the devices.
        flops: of the step, over all devices.
        chips: how many devices.

    Returns:
        The report; `fits` is False where the compiler found too little memory.

    Raises:
        jax.errors.JaxRuntimeError: the compiler failed for another reason.
    """
    params, optimizer, extra = (
        held(part) for part in (like.params, like.opt_state, like.extra)
    )
    extra += held(batch)
    texts = batch.passage if batch.pair is None else batch.pair
    start = time.perf_counter()
    compiled, needed = compile_step(step, like, batch)
    about: dict[str, Any] = {
        "query_length": batch.query.ids.shape[-1] if batch.query else 0,
        "passage_length": texts.ids.shape[-1],
        "group": texts.ids.shape[1],
        "rows": texts.ids.shape[0],
        "chips": chips,
        "chip": chip,
        "params": params,
        "optimizer": optimizer,
        "extra": extra,
        "flops": _each(flops, chips),
        "compile_seconds": time.perf_counter() - start,
    }
    if compiled is None:
        return BucketReport(
            **about,
            temporary=max(0, needed - params - optimizer - extra),
            output=0,
            compiled=False,
            collectives=(),
            traffic=0,
        )
    found, program = compiled.memory_analysis(), parse(compiled.as_text() or "")
    assert found is not None  # as `compile_step` has seen
    # With what the layout on the chip adds to the shapes.
    about["extra"] = found.argument_size_in_bytes - params - optimizer
    return BucketReport(
        **about,
        temporary=found.temp_size_in_bytes,
        output=needed - found.argument_size_in_bytes - found.temp_size_in_bytes,
        compiled=True,
        collectives=of_program(program),
        traffic=memory_traffic(program),
    )


def _each(flops: Flops, chips: int) -> Flops:
    values = dataclasses.asdict(flops)
    return Flops(**{name: value / chips for name, value in values.items()})
