"""Compares engine settings: starts each in fresh processes and times it on the same token ids.

Independent of Ray and tables, so that it runs where only vLLM is installed.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from indexer.errors import IndexerError
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec, Packed
from indexer.inference.sequences import TokenSequences
from indexer.inference.start import GPU_SHARE
from indexer.toml_text import section

WARM_SEQUENCES = 64
"""Sequences that every engine embeds before the clock starts, to compile and to touch its memory."""

LEAST_SECONDS = 5.0
"""Least time of a measurement: a shorter one says little on a machine that does other work too."""

PATIENCE_SECONDS = 1800
"""Longest time that a ready replica waits for the rest."""


@dataclass(frozen=True)
class Subject:
    """The work that is timed.

    Attributes:
        spec: The model and how it is computed; a setting's arguments replace its own.
        ids: Its sequences.
    """

    spec: EngineSpec
    ids: TokenSequences


@dataclass(frozen=True)
class Setting:
    """One way to run engines.

    Attributes:
        arguments: vLLM engine arguments.
        replicas: Engines that work at once.
        pinned: Whether each gets a share of the cores, as on a machine without a GPU; otherwise they share one GPU.
        separate: Whether vLLM's core runs in a process of its own, which is vLLM's default.
        packed: As in :class:`EngineSpec`; a separate process has no packed steps.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1
    pinned: bool = False
    separate: bool = False
    packed: Packed = "auto"

    def toml(self) -> str:
        """The ``[engine]`` block that has it."""
        return section("engine", self.named)

    @property
    def named(self) -> dict[str, Any]:
        """The keys of the ``[engine]`` block."""
        ours = {} if self.packed == "auto" else {"packed": self.packed}
        return {**self.arguments, **ours, **({} if self.pinned else {"replicas_per_gpu": self.replicas})}


@dataclass(frozen=True)
class Timing:
    """A setting and its speed.

    Attributes:
        setting: The setting.
        tokens_per_second: Rate of all replicas together; 0 if they do not start.
        start_seconds: Until the last replica was ready.
        failure: Why they do not start.
    """

    setting: Setting
    tokens_per_second: float
    start_seconds: float
    failure: str = ""

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.setting.named,
            "separate_process": self.setting.separate,
            "tokens_per_second": round(self.tokens_per_second),
            "start_seconds": round(self.start_seconds, 1),
            **({"failure": self.failure} if self.failure else {}),
        }


def measure(subject: Subject, setting: Setting) -> Timing:
    """Starts the replicas, waits until all are ready, and times them on a share of the sequences each."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(setting.replicas, context) as processes:
        meeting = _Meeting(manager.Barrier(setting.replicas), manager.Lock())
        started = time.time()
        running = [
            processes.submit(_time, replace(subject, ids=subject.ids[at :: setting.replicas]), setting, at, meeting)
            for at in range(setting.replicas)
        ]
        try:
            spans = [process.result() for process in running]
        except (IndexerError, BrokenProcessPool, OSError) as error:
            meeting.ready.abort()
            return Timing(setting, 0.0, time.time() - started, str(error) or type(error).__name__)
    first, last = min(start for start, _, _ in spans), max(end for _, end, _ in spans)
    return Timing(setting, sum(tokens for *_, tokens in spans) / (last - first), first - started)


@dataclass(frozen=True)
class _Meeting:
    """Synchronises replicas, by proxies of the manager's objects."""

    ready: Any
    turn: Any


def _time(subject: Subject, setting: Setting, number: int, meeting: _Meeting) -> tuple[float, float, int]:
    """Runs in a replica's process; returns when it began and ended, by the machine's clock, and tokens between."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(setting.separate))
    if setting.pinned:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: setting.replicas])
        os.environ["OMP_NUM_THREADS"] = str(len(cores[number :: setting.replicas]))
    # One start at a time on a GPU: vLLM sizes its memory by the memory free at its start.
    with nullcontext() if setting.pinned else meeting.turn:
        spec = replace(subject.spec, arguments=setting.arguments, packed=setting.packed)
        engine = Engine(spec, canary=subject.ids[:2])
        engine.embed(subject.ids[:WARM_SEQUENCES])
    meeting.ready.wait(PATIENCE_SECONDS)
    tokens, start = 0, time.time()
    while time.time() < start + LEAST_SECONDS:
        engine.embed(subject.ids)
        tokens += subject.ids.tokens
    return start, time.time(), tokens


def machine(max_tokens: int) -> tuple[Setting, dict[str, Sequence[Any]]]:
    """The setting to begin with on this machine, and the values to try.

    Args:
        max_tokens: Cap on the ids of one sequence, which a step must be able to take.

    Returns:
        Arguments ``start`` and ``choices`` of :func:`best`.
    """
    import torch

    batched = [max(size, max_tokens) for size in (4096, 8192, 16384, 32768, 65536)]
    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0))
        return Setting(replicas=cores, pinned=True), {"max_num_batched_tokens": sorted(set(batched[:3]))}
    choices: dict[str, Sequence[Any]] = {
        "max_num_batched_tokens": sorted(set(batched[1:])),
        "enforce_eager": [True],
        "compilation_config": [{"cudagraph_mode": "NONE"}],
        "packed": ["off"],
        "async_scheduling": [True],
        "max_num_seqs": [256, 512, 1024],
        "replicas_per_gpu": [2],
    }
    return Setting({"gpu_memory_utilization": GPU_SHARE}), choices


def best(
    measure: Callable[[Setting], Timing], start: Setting, choices: Mapping[str, Sequence[Any]]
) -> Iterator[Timing]:
    """Looks for the fastest setting: changes one value at a time and keeps it if it is faster.

    Args:
        measure: Times a setting.
        start: Setting to begin with.
        choices: Values to try of each vLLM argument, of ``packed`` and of ``replicas_per_gpu``.

    Yields:
        Every measurement, as it is made.
    """
    leader = measure(start)
    yield leader
    for name, values in choices.items():
        for setting in [_with(leader.setting, name, value) for value in values]:
            measured = measure(setting)
            yield measured
            if measured.tokens_per_second > leader.tokens_per_second:
                leader = measured


def _with(setting: Setting, name: str, value: Any) -> Setting:
    """The setting with another value; replicas share the GPU's memory evenly."""
    if name == "packed":
        return replace(setting, packed=value)
    if name != "replicas_per_gpu":
        return replace(setting, arguments={**setting.arguments, name: value})
    return replace(
        setting, replicas=value, arguments={**setting.arguments, "gpu_memory_utilization": GPU_SHARE / value}
    )
