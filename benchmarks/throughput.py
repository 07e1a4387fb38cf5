"""Tokens per second of this project and of others: same documents, same checkpoint, same run.

Contenders take turns for several rounds, each in a fresh process; medians are reported, start-up apart. Only tokens of
the documents count, end token included, padding never. What is not installed is reported with how to install it, and
what fails with why; the others are measured all the same. The results go into one folder as JSON, Markdown and charts.
The exit status is 1 if a ratio is below its least accepted value in floors.toml, or if one of ours failed.

--corpus measures a sample of your own documents on every GPU of this machine, or on its cores, and gives hours and
money for all of them. --engine.NAME VALUE is an argument of the engine, for ours and for vLLM's own ways.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import ours, peers, rerankers, servers
from benchmarks.contenders.rerankers import PairWork
from benchmarks.support import flops, machine, own_corpus, reporting, workload
from benchmarks.support.fresh_process import apart
from benchmarks.support.own_corpus import WholeCorpus
from benchmarks.support.reporting import Contender
from benchmarks.support.workload import Outcome, Work
from indexer.inference.flops import is_known
from indexer.inference.model import open_model
from indexer.settings import CorpusSettings, EngineSettings, ModelSettings
from indexer.testing.random_weights import TRUE_SHAPES

Run = Callable[[Any, int], Outcome]

EMBED: dict[str, Run] = {
    "transformers_arrival": peers.transformers_arrival,
    "transformers_sorted": peers.transformers_sorted,
    "sentence_transformers": peers.sentence_transformers,
    "sentence_transformers_pool": peers.sentence_transformers_pool,
    "stock_vllm": peers.stock_vllm,
    "vllm_serve": servers.vllm_serve,
    "text_embeddings_inference": servers.text_embeddings_inference,
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

ALL_GPUS = frozenset({"sentence_transformers_pool", "ray_data", "ray_data_lance", "job"})
"""Contenders that use every GPU; the others use one."""

KEPT = [name for name in EMBED if name not in OURS or name == "job"]
"""Contenders whose vectors are kept."""

CORPUS = "corpus"

JOB_FIGURES = {"mfu": "mfu", "reused": "reused_tokens"}
"""Figures of the job that have floors."""

ENGINE = "--engine."


def main() -> None:
    """Measures, prints and writes."""
    arguments = _arguments()
    contenders = _contenders(arguments)
    left_out = _known(arguments).keys() - contenders.keys()
    runs: dict[str, Any] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        limit = flops.limits()
        kind: Any = "embedding" if arguments.mode == "embed" else "reranker"
        dtype = arguments.dtype or _own_dtype(arguments) or flops.faster(limit)
        checkpoint = workload.checkpoint_of(arguments.model, kind, dtype)
        for lengths in arguments.lengths:
            prepared, whole = _prepare(arguments, Path(folder) / lengths, checkpoint, dtype, lengths)
            found = _rounds(_tuned(prepared, contenders), contenders, arguments.rounds)
            runs[lengths] = _describe(prepared, found, limit.get(dtype))
            if whole:
                runs[lengths]["whole"] = reporting.whole(runs[lengths], whole.documents, _shares(), arguments.price)
            wrong += [f"{name}: {row.failure}" for name, row in found.items() if name in OURS and row.failure]
            wrong += reporting.below_floors(f"{arguments.model} {lengths} {dtype}", runs[lengths]["ratios"], left_out)
    result = {
        "mode": arguments.mode,
        "model": arguments.model,
        "dtype": dtype,
        "rounds": arguments.rounds,
        "engine": arguments.engine,
        "machine": machine.describe(),
        "limit": limit,
        "runs": runs,
    }
    text = reporting.markdown(result)
    name = f"{arguments.mode}-{'corpus-' if arguments.corpus else ''}{Path(arguments.model).name}-{dtype}"
    reporting.write(arguments.out, name, result, text)
    print(text)
    print(json.dumps({name: run["ratios"] for name, run in runs.items()}))
    if wrong:
        sys.exit("; ".join(wrong))


def _arguments() -> argparse.Namespace:
    """The command line."""
    command = argparse.ArgumentParser(
        description=__doc__,
        epilog=_peers_by_line(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--model", default=workload.SMALL_MODEL, help="small, 0.6B, 4B, 8B (random weights) or a directory"
    )
    command.add_argument("--dtype", choices=flops.DTYPES, help="of the model (default: the faster one on this machine)")
    command.add_argument("--mode", choices=["embed", "score"], default="embed")
    command.add_argument(
        "--lengths", nargs="+", help=f"{_list(workload.LENGTHS)}; for score {_list(rerankers.LENGTHS)}"
    )
    command.add_argument("--corpus", help="your documents in place of --lengths: whatever corpus.uri takes")
    command.add_argument("--id-column", default="id", help="of --corpus (default id)")
    command.add_argument("--text-columns", nargs="+", default=["text"], help="of --corpus (default text)")
    command.add_argument("--price", type=float, help="money for an hour of one GPU, or of the machine without GPUs")
    command.add_argument("--peers", nargs="*", help="contenders beside ours (default: all), see below")
    command.add_argument(
        "--documents", type=int, default=6000, help="documents; other lengths than words: as many tokens"
    )
    command.add_argument("--rounds", type=int, default=3, help="rounds of all contenders (default 3)")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments, rest = command.parse_known_args()
    arguments.engine = _engine(command, rest)
    known = workload.LENGTHS if arguments.mode == "embed" else rerankers.LENGTHS
    if arguments.corpus and (arguments.lengths or arguments.mode == "score"):
        command.error("--corpus gives the lengths, and is embedded: leave out --lengths and --mode")
    arguments.lengths = [CORPUS] if arguments.corpus else arguments.lengths or [next(iter(known))]
    for name in arguments.lengths:
        if name not in {*known, CORPUS}:
            command.error(f"--lengths {name}: there are {_list(known)}")
    return arguments


def _engine(command: argparse.ArgumentParser, rest: Sequence[str]) -> dict[str, str]:
    """Arguments of the engine, as texts that :class:`EngineSettings` reads."""
    words = [part for word in rest for part in word.split("=", 1)]
    if len(words) % 2 or any(not name.startswith(ENGINE) for name in words[::2]):
        command.error(f"{' '.join(rest)} is not understood; the engine's arguments are --engine.NAME VALUE")
    return {name.removeprefix(ENGINE): value for name, value in zip(words[::2], words[1::2], strict=True)}


def _peers_by_line() -> str:
    """Names of all contenders, each with what it is."""
    lines = ["contenders (--peers; ours are always measured):"]
    for mode, known in (("embed", EMBED), ("score", SCORE)):
        lines += [f"  {mode}: {name}: {str(run.__doc__).splitlines()[0]}" for name, run in known.items()]
    return "\n".join(lines)


def _own_dtype(arguments: argparse.Namespace) -> str | None:
    """The dtype of the checkpoint of a user's own case, which is what the job computes in."""
    if not arguments.corpus or arguments.model in {workload.SMALL_MODEL, *TRUE_SHAPES}:
        return None
    return open_model(ModelSettings(name=arguments.model), EngineSettings()).dtype


def _shares() -> dict[str, int]:
    """GPUs that each contender uses, 1 on a machine without."""
    return {name: max(1, machine.gpus()) if name in ALL_GPUS else 1 for name in KEPT}


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


def _prepare(
    arguments: argparse.Namespace, root: Path, checkpoint: str, dtype: str, lengths: str
) -> tuple[Work | PairWork, WholeCorpus | None]:
    """Writes the work of one kind of lengths; of a user's corpus also what the sample stands for."""
    if arguments.mode == "score":
        return rerankers.prepare(root, checkpoint, dtype, lengths), None
    if arguments.corpus:
        columns = CorpusSettings(
            uri=arguments.corpus, id_column=arguments.id_column, text_columns=arguments.text_columns
        )
        wanted = Work(root, checkpoint, arguments.documents, dtype, engine=arguments.engine)
        return own_corpus.prepare(wanted, columns)
    prepared = workload.prepare(root, checkpoint, dtype, lengths, arguments.documents)
    return replace(prepared, engine=arguments.engine), None


def _tuned(prepared: Work | PairWork, contenders: Mapping[str, Run]) -> Work | PairWork:
    """The work with Transformers' best attention and batch, if one of its ways is asked for."""
    if isinstance(prepared, PairWork) or not any("transformers" in name for name in contenders):
        return prepared
    try:
        attention, batch = apart(peers.find_transformers, prepared)
    except RuntimeError as error:
        print(f"Transformers cannot be tuned, batches of {prepared.batch}: {error}", flush=True)
        return prepared
    print(f"Transformers is best with {attention} attention and batches of {batch}", flush=True)
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
    """Runs one more round. What is missing or fails is reported with the rounds before, and ends no other."""
    try:
        return Contender([*so_far.outcomes, apart(run, prepared, number)])
    except RuntimeError as error:
        return Contender(so_far.outcomes, reporting.how_to_install(str(error)))


def _describe(prepared: Work | PairWork, found: Mapping[str, Contender], limit: float | None) -> dict[str, Any]:
    """Figures and ratios of one kind of lengths, JSON-ready."""
    lengths: Sequence[int] = prepared.lengths
    config = json.loads((Path(prepared.checkpoint) / "config.json").read_text(encoding="utf-8"))
    per_token = flops.checkpoint_flops(prepared.checkpoint, lengths) / sum(lengths) if is_known(config) else None
    items = prepared.documents / sum(lengths)
    transformers = {"attention": prepared.attention, "batch": prepared.batch} if isinstance(prepared, Work) else {}
    described = {name: row.describe(items, per_token, limit) for name, row in found.items()}
    measured = reporting.ratios(found, [("job", name) for name in found if name != "job"] + [("one_worker", "engine")])
    job = described["job"]
    measured |= {f"job {short}": job[key] for short, key in JOB_FIGURES.items() if job.get(key) is not None}
    return {
        "items": prepared.documents,
        "tokens": sum(lengths),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "flops_per_token": per_token,
        "transformers": transformers,
        "contenders": described,
        "ratios": measured,
    }


if __name__ == "__main__":
    main()
