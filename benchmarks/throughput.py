"""Tokens per second of this project and of others: same documents, same checkpoint, same run.

Contenders take turns for several rounds, each in a fresh process; medians are reported, start-up apart. Only tokens of
the documents count, end token included, padding never. A peer that is not installed is reported as absent. The results
go into one folder as JSON, Markdown and charts. The exit status is 1 if a ratio is below its least accepted value in
floors.toml.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import ours, peers, rerankers
from benchmarks.contenders.rerankers import PairWork
from benchmarks.support import flops, machine, reporting, workload
from benchmarks.support.fresh_process import apart
from benchmarks.support.reporting import Contender
from benchmarks.support.workload import Outcome, Work

Run = Callable[[Any, int], Outcome]

EMBED: dict[str, Run] = {
    "transformers_arrival": peers.transformers_arrival,
    "transformers_sorted": peers.transformers_sorted,
    "sentence_transformers": peers.sentence_transformers,
    "sentence_transformers_pool": peers.sentence_transformers_pool,
    "stock_vllm": peers.stock_vllm,
    "ray_data": peers.ray_data,
    "ray_data_lance": peers.ray_data_lance,
    "lancedb_registry": peers.lancedb_registry,
    "engine": ours.engine,
    "one_worker": ours.one_worker,
    "floor": ours.floor,
    "job": ours.job,
}

SCORE: dict[str, Run] = {
    "transformers_arrival": rerankers.transformers_arrival,
    "transformers_sorted": rerankers.transformers_sorted,
    "stock_vllm": rerankers.stock_vllm,
    "job": rerankers.job,
}

OURS = ("engine", "one_worker", "floor", "job")


def main() -> None:
    """Measures, prints and writes."""
    arguments = _arguments()
    contenders = _contenders(arguments)
    left_out = _known(arguments).keys() - contenders.keys()
    runs: dict[str, Any] = {}
    below: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        limit = flops.limits()
        kind: Any = "embedding" if arguments.mode == "embed" else "reranker"
        dtype = arguments.dtype or flops.faster(limit)
        checkpoint = workload.checkpoint_of(arguments.model, kind, dtype)
        for lengths in arguments.lengths:
            prepared = _prepare(arguments, Path(folder) / lengths, checkpoint, dtype, lengths)
            found = _rounds(prepared, contenders, arguments.rounds)
            runs[lengths] = _describe(prepared, found, limit[dtype])
            below += reporting.below_floors(f"{arguments.model} {lengths} {dtype}", runs[lengths]["ratios"], left_out)
    result = {
        "mode": arguments.mode,
        "model": arguments.model,
        "dtype": dtype,
        "rounds": arguments.rounds,
        "machine": machine.describe(),
        "limit": limit,
        "runs": runs,
    }
    text = reporting.markdown(result)
    reporting.write(arguments.out, f"{arguments.mode}-{Path(arguments.model).name}-{dtype}", result, text)
    print(text)
    print(json.dumps({name: run["ratios"] for name, run in runs.items()}))
    if below:
        sys.exit("; ".join(below))


def _arguments() -> argparse.Namespace:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument(
        "--model", default=workload.SMALL_MODEL, help="small, 0.6B, 4B, 8B (random weights) or a directory"
    )
    command.add_argument("--dtype", choices=flops.DTYPES, help="of the model (default: the faster one on this machine)")
    command.add_argument("--mode", choices=["embed", "score"], default="embed")
    command.add_argument(
        "--lengths", nargs="+", help=f"{_list(workload.LENGTHS)}; for score {_list(rerankers.LENGTHS)}"
    )
    command.add_argument("--peers", nargs="*", help="contenders beside ours (default: all)")
    command.add_argument(
        "--documents", type=int, default=6000, help="documents; other lengths than words: as many tokens"
    )
    command.add_argument("--rounds", type=int, default=3, help="rounds of all contenders (default 3)")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = command.parse_args()
    known = workload.LENGTHS if arguments.mode == "embed" else rerankers.LENGTHS
    arguments.lengths = arguments.lengths or [next(iter(known))]
    for name in arguments.lengths:
        if name not in known:
            command.error(f"--lengths {name}: there are {_list(known)}")
    return arguments


def _known(arguments: argparse.Namespace) -> dict[str, Run]:
    """Contenders of the mode."""
    return EMBED if arguments.mode == "embed" else SCORE


def _contenders(arguments: argparse.Namespace) -> dict[str, Run]:
    """The chosen contenders, ours included."""
    known = _known(arguments)
    if arguments.peers is None:
        return known
    unknown = [name for name in arguments.peers if name not in known]
    if unknown:
        sys.exit(f"--peers {unknown[0]}: there are {_list(set(known) - set(OURS))}")
    return {name: run for name, run in known.items() if name in arguments.peers or name in OURS}


def _list(names: Mapping[str, Any] | set[str]) -> str:
    """Names, sorted, for a message."""
    return ", ".join(sorted(names))


def _prepare(arguments: argparse.Namespace, root: Path, checkpoint: str, dtype: str, lengths: str) -> Work | PairWork:
    """Writes the work of one kind of lengths, and tunes Transformers for it."""
    if arguments.mode == "score":
        return rerankers.prepare(root, checkpoint, dtype, lengths)
    prepared = workload.prepare(root, checkpoint, dtype, lengths, arguments.documents)
    if arguments.peers == []:
        return prepared
    attention, batch = apart(peers.find_transformers, prepared)
    print(f"{lengths}: Transformers is best with {attention} attention and batches of {batch}", flush=True)
    return replace(prepared, attention=attention, batch=batch)


def _rounds(prepared: Work | PairWork, contenders: Mapping[str, Run], rounds: int) -> dict[str, Contender]:
    """Runs all contenders in turns, so that a slow phase of the machine meets each of them."""
    found: dict[str, Contender] = {name: Contender([]) for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            if found[name].failure:
                continue
            found[name] = _with(found[name], run, prepared, number)
            said = found[name].failure or f"{found[name].rates[-1]:,.0f} tokens/s"
            print(f"round {number + 1}: {name}: {said}", flush=True)
    return found


def _with(so_far: Contender, run: Run, prepared: Work | PairWork, number: int) -> Contender:
    """Runs one more round. A peer that is missing or fails is reported and left out; our own failure ends the run."""
    try:
        return Contender([*so_far.outcomes, apart(run, prepared, number)])
    except RuntimeError as error:
        if run.__module__ == ours.__name__ or run is rerankers.job:
            raise
        return Contender([], str(error))


def _describe(prepared: Work | PairWork, found: Mapping[str, Contender], limit: float) -> dict[str, Any]:
    """Figures and ratios of one kind of lengths, JSON-ready."""
    lengths: Sequence[int] = prepared.lengths
    per_token = flops.checkpoint_flops(prepared.checkpoint, lengths) / sum(lengths)
    items = prepared.documents / sum(lengths)
    transformers = {"attention": prepared.attention, "batch": prepared.batch} if isinstance(prepared, Work) else {}
    pairs = [("job", name) for name in found if name != "job"]
    pairs += [("one_worker", "engine")] if "engine" in found else []
    measured = reporting.ratios(found, pairs)
    job = found["job"].describe(items, per_token, limit)
    measured["job mfu"] = job["mfu"]
    if "reused_tokens" in job:
        measured["job reused"] = job["reused_tokens"]
    return {
        "items": prepared.documents,
        "tokens": sum(lengths),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "flops_per_token": per_token,
        "transformers": transformers,
        "contenders": {name: row.describe(items, per_token, limit) for name, row in found.items()},
        "ratios": measured,
    }


if __name__ == "__main__":
    main()
