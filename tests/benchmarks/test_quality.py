"""Suites of mteb, resumed task by task, with a second stage; on small tasks and models of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.quality import EMBEDDING, RERANKER, Quality, evaluate, published, rerank

WORDS = ["apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour"]


def task(name: str) -> Any:
    """Documents that name a thing and its number; queries name the thing."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Things(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name, description="Things", reference=None, dataset={"path": "none", "revision": "1"},
            type="Retrieval", category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"],
            main_score="ndcg_at_10", date=("2026-01-01", "2026-01-02"), domains=["Programming"], task_subtypes=[],
            license="apache-2.0", annotations_creators="derived", dialect=[], sample_creation="found",
            bibtex_citation="", prompt={"query": "Find it"},
        )  # fmt: skip

        def load_data(self, *_: Any, **__: Any) -> None:
            ids = [f"d{at}" for at in range(len(WORDS))]
            self.dataset["default"]["test"] = {
                "corpus": Dataset.from_dict({"id": ids, "text": [f"{word} {at}" for at, word in enumerate(WORDS)]}),
                "queries": Dataset.from_dict({"id": [f"q{at}" for at in range(4)], "text": WORDS[:4]}),
                "relevant_docs": {f"q{at}": {f"d{at}": 1} for at in range(4)},
                "top_ranked": None,
            }
            self.data_loaded = True

    found = Things()
    found.dataset = {"default": {}}
    return found


class Encoder:
    """Finds the thing in the second place: the one after it is always a little nearer."""

    def __init__(self) -> None:
        from mteb.models import ModelMeta

        self.mteb_model_meta = ModelMeta.create_empty({"name": "local/first", "revision": "1"})

    def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        vectors = np.zeros((len(texts), len(WORDS)), np.float32)
        for row, text in enumerate(texts):
            at = WORDS.index(text.split()[0])
            vectors[row, at] = 1.0
            if prompt_type is not None and prompt_type.value == "query":
                vectors[row, at + 1] = 1.1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def similarity(self, one: Any, other: Any) -> Any:
        return np.asarray(one) @ np.asarray(other).T

    similarity_pairwise = similarity


class CrossEncoder:
    """Knows the right one, and remembers what it was asked."""

    asked = 0

    def __init__(self) -> None:
        from mteb.models import ModelMeta

        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": "local/second", "revision": "1", "model_type": ["cross-encoder"]}
        )

    def predict(self, inputs1: Any, inputs2: Any, **_: Any) -> np.ndarray:
        sides = [[text for batch in side for text in batch["text"]] for side in (inputs1, inputs2)]
        CrossEncoder.asked += len(sides[0])
        return np.array([float(document.startswith(query)) for query, document in zip(*sides, strict=True)], np.float32)


def starter(kind: Any, started: list[str]) -> Any:
    @contextmanager
    def start() -> Iterator[Any]:
        started.append(kind.__name__)
        yield kind()

    return start


def test_tasks_are_resumed_and_a_reranker_orders_what_was_found(tmp_path: Path) -> None:
    started: list[str] = []
    first = tmp_path / "first"
    second_place = pytest.approx(100 / np.log2(3), abs=0.01)
    assert evaluate([task("One")], starter(Encoder, started), first) == {"One": second_place}
    both = [task("One"), task("Two")]
    assert evaluate(both, starter(Encoder, started), first) == {"One": second_place, "Two": second_place}
    assert evaluate(both, starter(Encoder, started), first) == {"One": second_place, "Two": second_place}
    assert started == ["Encoder", "Encoder"], "what is done starts no engine"
    again = [task("One"), task("Two")]
    assert rerank(again, starter(CrossEncoder, started), tmp_path / "second", first, top=3) == {"One": 100, "Two": 100}
    assert CrossEncoder.asked == 2 * 4 * 3, "two tasks of four queries with three documents each"
    assert rerank(again, starter(CrossEncoder, started), tmp_path / "second", first, top=3)["Two"] == 100
    assert started == ["Encoder", "Encoder", "CrossEncoder"]


def test_an_interrupted_task_is_not_taken_for_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def interrupted(_: Any, given: Any, __: Path) -> float:
        if given.metadata.name == "Two":
            raise KeyboardInterrupt
        done.append(given.metadata.name)
        return 0.5

    monkeypatch.setattr(quality, "_ranked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate([task("One"), task("Two")], starter(Encoder, []), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["One.json"]
    assert done == ["One"]


def test_published_figures_stand_beside_ours() -> None:
    assert published(EMBEDDING, "eng", "Qwen/Qwen3-Embedding-4B") == 74.60
    assert published(RERANKER, "mldr", "Qwen/Qwen3-Reranker-8B") == 70.19
    assert published(EMBEDDING, "code", "Qwen/Qwen3-Embedding-8B") is None
    assert published(EMBEDDING, "eng", "intfloat/multilingual-e5-small") is None
    lines = Quality({"One": 50.0, "Two": 70.0}, 64.33).table().splitlines()
    assert lines[2:] == ["| One | 50.00 | |", "| Two | 70.00 | |", "| **mean** | 60.00 | 64.33 |"]
