"""Runs published benchmarks on our workers: mteb's suites with an embedding model, optionally with a reranker.

``python -m benchmarks.quality --model Qwen/Qwen3-Embedding-0.6B --suite eng`` runs every task with its own instruction
and prints our mean beside the published one. Tasks that are done are read from the output folder: the same command
resumes. With ``--reranker`` the first ``--top`` documents of the model are put into the reranker's order, in retrieval
tasks. Needs the extra ``mteb``, and a network or a filled cache for the tasks' data.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.cluster.connection import Cluster
from indexer.inference.model import open_model, open_reranker
from indexer.settings import ClusterSettings, EngineSettings, ModelSettings, RerankerSettings

BENCHMARKS = {
    "eng": "MTEB(eng, v2)",
    "multilingual": "MTEB(Multilingual, v2)",
    "chinese": "MTEB(cmn, v1)",
    "code": "MTEB(Code, v1)",
}
"""mteb's names of the suites; ``mldr`` is a single task."""

LONG_TASK = "MultiLongDocRetrieval"

SIZES = ("0.6B", "4B", "8B")

EMBEDDING = {
    "multilingual": (64.33, 69.45, 70.58),
    "eng": (70.70, 74.60, 75.22),
    "chinese": (66.33, 72.27, 73.84),
}
"""Mean over tasks of Qwen3-Embedding by size, times 100 (arXiv:2506.05176 and the model cards)."""

RERANKER = {
    "eng": (65.80, 69.76, 69.02),
    "chinese": (71.31, 75.94, 77.45),
    "multilingual": (66.36, 72.74, 72.94),
    "mldr": (67.28, 69.97, 70.19),
    "code": (73.42, 81.20, 81.22),
}
"""Mean over retrieval tasks of Qwen3-Reranker by size, on the first 100 of Qwen3-Embedding-0.6B; the same sources."""

Start = Callable[[], AbstractContextManager[Any]]
"""Starts engines that answer as a model of mteb."""


@dataclass(frozen=True)
class Quality:
    """Scores of a suite.

    Attributes:
        scores: Main score of every task, times 100.
        published: The published mean, ``None`` if there is none.
    """

    scores: Mapping[str, float]
    published: float | None

    @property
    def mean(self) -> float:
        """Mean over tasks."""
        return sum(self.scores.values()) / len(self.scores)

    def table(self) -> str:
        """Markdown."""
        rows = "".join(f"| {name} | {score:.2f} | |\n" for name, score in sorted(self.scores.items()))
        published = "" if self.published is None else f"{self.published:.2f}"
        return (
            f"| task | ours | published |\n| --- | ---: | ---: |\n{rows}| **mean** | {self.mean:.2f} | {published} |\n"
        )


def evaluate(tasks: Iterable[Any], start: Start, folder: Path) -> dict[str, float]:
    """Evaluates an embedding model task by task.

    Args:
        tasks: mteb's tasks.
        start: Starts the model's engines; not called if every task is done.
        folder: Folder of the results and of the rankings of retrieval tasks.

    Returns:
        Main score of every task, times 100.
    """
    return _each(list(tasks), start, folder, _ranked)


def rerank(tasks: Iterable[Any], start: Start, folder: Path, first: Path, top: int) -> dict[str, float]:
    """Evaluates a reranker on an embedding model's rankings, like :func:`evaluate`.

    Args:
        tasks: mteb's retrieval tasks.
        start: Starts the reranker's engines.
        folder: Folder of the results.
        first: The folder that :func:`evaluate` wrote of the embedding model.
        top: Documents of every query that are re-ranked.
    """
    return _each(list(tasks), start, folder, lambda model, task, _: _reranked(model, task, first, top))


def _each(tasks: Sequence[Any], start: Start, folder: Path, one: Callable[[Any, Any, Path], float]) -> dict[str, float]:
    """Evaluates the tasks that have no result yet; returns the scores of all."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {task.metadata.name: folder / f"{task.metadata.name}.json" for task in tasks}
    left = [task for task in tasks if not files[task.metadata.name].is_file()]
    if left:
        with start() as model:
            for task in left:
                score = one(model, task, folder)
                print(f"{task.metadata.name}: {100 * score:.2f}", flush=True)
                _put(files[task.metadata.name], {"main_score": score})
    return {name: 100 * json.loads(file.read_text(encoding="utf-8"))["main_score"] for name, file in files.items()}


def _ranked(model: Any, task: Any, folder: Path) -> float:
    """Main score of a task; the rankings are kept for a reranker."""
    import mteb

    found = mteb.evaluate(
        model,
        task,
        cache=None,
        overwrite_strategy="always",
        prediction_folder=_predictions(folder),
        show_progress_bar=False,
    )
    return float(found.task_results[0].get_score())


def _reranked(model: Any, task: Any, first: Path, top: int) -> float:
    """Main score of a task, with its first documents re-ranked."""
    import mteb

    narrowed = task.convert_to_reranking(_predictions(first), top_k=top)
    found = mteb.evaluate(model, narrowed, cache=None, overwrite_strategy="always", show_progress_bar=False)
    return float(found.task_results[0].get_score())


def _predictions(folder: Path) -> Path:
    """Folder of the rankings."""
    return folder / "predictions"


def _put(file: Path, content: Mapping[str, Any]) -> None:
    """Writes beside the file and renames: an interrupted task must not look done."""
    written = file.with_suffix(".part")
    written.write_text(json.dumps(content), encoding="utf-8")
    os.replace(written, file)  # noqa: PTH105  # Path.replace is the same


def published(figures: Mapping[str, Sequence[float]], suite: str, model: str) -> float | None:
    """The published mean of a suite for a Qwen3 model, identified by the size in its name."""
    size = re.search(r"Qwen3-(?:Embedding|Reranker)-([\d.]+B)", model)
    if size is None or size.group(1) not in SIZES or suite not in figures:
        return None
    return figures[suite][SIZES.index(size.group(1))]


def suite_tasks(suite: str, *, only_retrieval: bool = False) -> list[Any]:
    """The tasks of a suite."""
    import mteb

    tasks = mteb.get_tasks(tasks=[LONG_TASK]) if suite == "mldr" else mteb.get_benchmark(BENCHMARKS[suite]).tasks
    return [task for task in tasks if task.metadata.type == "Retrieval" or not only_retrieval]


def main() -> None:
    """Runs a suite and prints the table."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--model", default="Qwen/Qwen3-Embedding-0.6B", help="embedding model, hub id or directory")
    command.add_argument("--reranker", help="reranker, hub id or directory")
    command.add_argument("--suite", choices=[*BENCHMARKS, "mldr"], required=True)
    command.add_argument("--top", type=int, default=100, help="documents that the reranker orders (default 100)")
    command.add_argument("--max-tokens", type=int, default=8192, help="most tokens of a text (default 8192)")
    command.add_argument("--output", type=Path, default=Path("data/quality"), help="folder of results, for resuming")
    arguments = command.parse_args()
    tasks = suite_tasks(arguments.suite, only_retrieval=arguments.reranker is not None)
    with Cluster(ClusterSettings()) as cluster:
        print(_run(arguments, tasks, cluster).table())


def _run(arguments: argparse.Namespace, tasks: Sequence[Any], cluster: Cluster) -> Quality:
    """Evaluates the model, and the reranker if there is one."""
    from indexer.evaluation.mteb_models import MtebCrossEncoder, MtebEncoder

    engine = EngineSettings()
    model = open_model(ModelSettings(name=arguments.model, max_tokens=arguments.max_tokens), engine)
    first = arguments.output / f"{Path(arguments.model).name}-{model.fingerprint_digest}"
    scores = evaluate(tasks, lambda: MtebEncoder(cluster, model), first)
    if arguments.reranker is None:
        return Quality(scores, published(EMBEDDING, arguments.suite, arguments.model))
    reranker = open_reranker(RerankerSettings(name=arguments.reranker, max_tokens=arguments.max_tokens), engine)
    name = f"{Path(arguments.reranker).name}-{reranker.checkpoint.digest[:12]}-top{arguments.top}"
    scores = rerank(tasks, lambda: MtebCrossEncoder(cluster, reranker), first / name, first, arguments.top)
    return Quality(scores, published(RERANKER, arguments.suite, arguments.reranker))


if __name__ == "__main__":
    main()
