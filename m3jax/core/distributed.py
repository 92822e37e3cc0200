"""Several processes as one program: how they meet, agree and wait for one another."""

import inspect
import itertools
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from m3jax.core import hosts, watch
from m3jax.core.errors import InputError
from m3jax.core.watch import Failure, Watch

# Seconds in which all processes have to come; hosts of a pod boot at their own pace.
TIMEOUT = 300.0
_FLAGS = ("--coordinator", "--processes", "--process")
# How long a process waits for another that is at work: until that one fails.
_FOREVER = 30 * 24 * 3600 * 1000
# Seconds in which a failure elsewhere, which our own may follow from, is told.
_FIRST_CAUSE = 3.0
_numbers = itertools.count()
_watch: Watch | None = None


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: float = TIMEOUT,
) -> None:
    """Join the other processes, where there are any; first of all that jax does.

    Without flags the environment says whether there are several: see `hosts.scheduler`.
    From then on the failure of one process ends all, and only the first one prints.

    Args:
        coordinator: HOST:PORT of the first process, any free port; the same for all.
        processes: how many there are.
        process: number of this one, from 0.
        timeout: seconds in which all have to come.

    Raises:
        InputError: a flag is missing or wrong, or the port is taken.

    Where not all processes come, this one says so and ends with 2.

    Example:
        >>> start()  # nothing says that there are several
        >>> start("localhost:1234")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: command line: expected all of --coordinator, \
--processes and --process, or none, found no --processes and no --process
    """
    global _watch
    given = dict(zip(_FLAGS, (coordinator, processes, process), strict=True))
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(_FLAGS):
        expected = f"all of {', '.join(_FLAGS[:-1])} and {_FLAGS[-1]}, or none"
        found = " and ".join(f"no {flag}" for flag in missing)
        raise InputError(expected, found, where="command line")
    if timeout <= 0:
        raise InputError("seconds above 0", f"{timeout:g}", where="--start-timeout")
    named: dict[str, Any] = {}
    if not missing:
        assert coordinator is not None and processes is not None and process is not None
        _check(coordinator, processes, process)
        if processes == 1:
            return
        named = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
            # Only what the flags say holds.
            "cluster_detection_method": "deactivate",
        }
    elif hosts.scheduler(os.environ) is None:
        return
    _initialize(named, timeout)
    if count() > 1:
        if not first():
            sys.stdout = open(os.devnull, "w")  # what all would print, one prints
        _watch = _open_watch(timeout)


def from_args(args: Sequence[str]) -> dict[str, Any]:
    """The flags of `start` among the words of a command line; the others are passed by.

    Args:
        args: the words.

    Returns:
        Arguments for `start`.

    Raises:
        InputError: a number is none.

    Example:
        >>> from_args(["--processes=2", "--steps", "9"])
        {'processes': 2}
    """
    kinds = dict(zip(_FLAGS, (str, int, int), strict=True)) | {"--start-timeout": float}
    found = {}
    for at, word in enumerate(args):
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in kinds or (not equals and at + 1 == len(args)):
            continue
        value = value if equals else args[at + 1]
        try:
            name = flag.removeprefix("--").removeprefix("start-")
            found[name] = kinds[flag](value)
        except ValueError:
            raise InputError("a number", repr(value), where=flag) from None
    return found


def first() -> bool:
    """Whether this process is the one that writes and prints.

    Example:
        >>> first()
        True
    """
    return not _joined() or _jax().process_index() == 0


def count() -> int:
    """How many processes there are.

    Example:
        >>> count()
        1
    """
    return _jax().process_count() if _joined() else 1


def wait(name: str) -> None:
    """Return when all processes are here; each has to come.

    Args:
        name: what for; the same in all.

    Example:
        >>> wait("the run folder")
    """
    if count() > 1:
        _client().wait_at_barrier(f"m3jax/{next(_numbers)}/{name}", _FOREVER)


def share(name: str, make: Callable[[], Any]) -> Any:
    """Give all processes what the first one makes; the others wait for it.

    Args:
        name: what it is; the same in all.
        make: called in the first process only; returns values of JSON.

    Returns:
        What `make` returned.

    Example:
        >>> share("scores", lambda: {"ndcg@10": 0.5})
        {'ndcg@10': 0.5}
    """
    if count() == 1:
        return make()
    key = f"m3jax/{next(_numbers)}/{name}"
    if not first():
        return json.loads(_client().blocking_key_value_get(key, _FOREVER))
    made = make()
    _client().key_value_set(key, json.dumps(made))
    return made


def gather(name: str, value: Any) -> list[Any]:
    """What each process has, for all of them.

    Args:
        name: what it is; the same in all.
        value: of this process, as JSON can tell it.

    Returns:
        One value a process, in their order.

    Example:
        >>> gather("rows", 3)
        [3]
    """
    if count() == 1:
        return [value]
    key = f"m3jax/{next(_numbers)}/{name}"
    _client().key_value_set(f"{key}/{_jax().process_index()}", json.dumps(value))
    _client().wait_at_barrier(f"{key}/all", _FOREVER)
    found = {
        int(path.rpartition("/")[2]): json.loads(text)
        for path, text in _client().key_value_dir_get(key)
    }
    return [found[process] for process in sorted(found)]


def require_same(facts: Mapping[str, Any], *, do: str = "") -> None:
    """Stop where the processes do not agree; all of them raise alike.

    Args:
        facts: what it is -> its value here, as JSON can tell it.
        do: what the user can do about a difference.

    Raises:
        InputError: names the fact and the processes in which it is another one.

    Example:
        >>> require_same({"rows of train.jsonl": 60})
    """
    told = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
    found = gather("facts", told)
    for name in found[0]:
        others = [i for i, one in enumerate(found) if one.get(name) != found[0][name]]
        if others:
            expected = f"the same in every process: {_short(found[0][name])}"
            there = f"{_short(str(found[others[0]].get(name)))} in {_names(others)}"
            raise InputError(expected, there, where=name, do=do)


def finish() -> None:
    """Wait until all processes are done, and part; nothing where there is one.

    Example:
        >>> finish()
    """
    if _watch is not None:
        wait("end")
        _watch.close()


def fail(line: str | None, code: int, error: BaseException) -> None:
    """End all processes, because this one has failed; return where it is alone.

    Args:
        line: the reason, for the user; None prints the traceback of a mistake of ours.
        code: exit code.
        error: what happened.
    """
    if not _joined() or count() == 1:
        return
    if line is None:
        # Another one may have died, by which our collective failed.
        threading.Event().wait(_FIRST_CAUSE)
        traceback.print_exception(error)
        text = "".join(traceback.format_exception_only(error)).strip()
        line = f"error: {' '.join(text.split())[:500]}"
    failure = Failure(line.removeprefix("error: "), code, line.startswith("error: "))
    if _watch is None:
        watch.leave([failure.line()], code)
    _watch.fail(failure)


def _check(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError("HOST:PORT", repr(coordinator), where="--coordinator")
    if processes < 1:
        raise InputError("at least 1", f"{processes}", where="--processes")
    if not 0 <= process < processes:
        expected = f"a number from 0 to {processes - 1}, below --processes"
        raise InputError(expected, f"{process}", where="--process")
    if process == 0 and processes > 1:
        try:  # where it is taken, jax may crash
            watch.listen(int(port)).close()
        except OSError as error:
            found = (error.strerror or str(error)).lower()
            expected, where = "a free port of this host", f"--coordinator {coordinator}"
            raise InputError(expected, found, where=where) from None


def _initialize(named: dict[str, Any], timeout: float) -> None:
    jax = _jax()
    # Without it the processes of a CPU each have an answer of their own.
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # What jax does when nobody comes is a crash with a stack of C++; so we are faster.
    named["initialization_timeout"] = int(timeout) + 60
    known = inspect.signature(jax.distributed.initialize).parameters
    here = threading.Event()
    late = threading.Thread(target=_late, args=(here, named, timeout), daemon=True)
    late.start()
    try:
        jax.distributed.initialize(**{k: v for k, v in named.items() if k in known})
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        do = f"{', '.join(_FLAGS)} say it in place of the environment."
        told = InputError("processes that meet", text, where="jax.distributed", do=do)
        if isinstance(error, ValueError):
            raise told from None
        here.set()
        watch.leave([f"error: {told}"], 2)  # what jax has begun would crash at the exit
    finally:
        here.set()


def _late(here: threading.Event, named: dict[str, Any], timeout: float) -> NoReturn:
    """Ends this process if the others do not come."""
    if here.wait(timeout):
        sys.exit()  # of this thread
    address = named.get("coordinator_address")
    expected, found = "all processes", "fewer"
    if address is not None:
        host, _, port = address.rpartition(":")
        expected = f"{named['num_processes']} processes at {address}"
        try:
            socket.create_connection((host.strip("[]"), int(port)), 2).close()
        except OSError as error:
            found = f"nobody there ({(error.strerror or str(error)).lower()})"
    error = InputError(
        f"{expected} within {timeout:g} s",
        found,
        where="--coordinator" if address else "jax.distributed",
        do="Start the same command on every host, each with its own --process.",
    )
    watch.leave([f"error: {error}"], 2)


def _open_watch(timeout: float) -> Watch | None:
    """The connections by which processes learn of each other's failure."""
    client, key = _client(), "m3jax/watch"
    if first():
        made = watch.First(count())
        client.key_value_set(key, json.dumps([made.port, made.token]))
        return made
    port, token = json.loads(client.blocking_key_value_get(key, int(timeout * 1000)))
    number = _jax().process_index()
    try:
        return watch.Other(number, (_host(), port), token)
    except OSError as error:
        print(
            f"warning: process {number} cannot reach port {port} of {_host()} "
            f"({error}): if another process fails, it takes minutes until this one "
            "ends",
            file=sys.stderr,
        )
        return None


def _host() -> str:
    """Where the first process is."""
    from jax._src import distributed  # jax tells it nowhere else

    address = distributed.global_state.coordinator_address
    assert address is not None
    return address.rpartition(":")[0].strip("[]")


def _client() -> Any:
    """What all processes are connected to; needs no device, so no one has to hurry."""
    from jax._src import distributed  # jax gives it nowhere else

    return distributed.global_state.client


def _joined() -> bool:
    # Whoever has not imported jax has joined nobody.
    return "jax" in sys.modules and _jax().distributed.is_initialized()


def _jax() -> Any:
    import jax  # takes longer than --help may

    return jax


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names(processes: Sequence[int]) -> str:
    word = "process" if len(processes) == 1 else "processes"
    return f"{word} {', '.join(map(str, processes))}"
