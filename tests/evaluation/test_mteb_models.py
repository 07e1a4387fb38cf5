"""The engines behind mteb's protocols on a task of our own: the results of sentence-transformers."""

from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.cluster.connection import Cluster
from indexer.errors import SettingsError
from indexer.inference.model import open_model, open_reranker
from indexer.inference.sequences import TokenSequences
from indexer.settings import ClusterSettings, EngineSettings, ModelSettings, RerankerSettings
from indexer.testing.checkpoints import minilm_path
from jobs.demo import python_docs
from tests.support.checkpoints import cross_encoder

pytestmark = pytest.mark.timeout(1200)

EAGER = EngineSettings(enforce_eager=True)

DOCUMENTS = 200

QUERIES = 40

INSTRUCTION = "Given a description, retrieve the function that it describes"


def task(kind: str = "Retrieval") -> Any:
    """Descriptions of functions of the standard library, whose signatures are to be found."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Described(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="DescribedFunctions", description="Functions by their description", reference=None,
            dataset={"path": "none", "revision": "1"}, type=kind, category="t2t", modalities=["text"],
            eval_splits=["test"], eval_langs=["eng-Latn"], main_score="ndcg_at_10", date=("2026-01-01", "2026-01-02"),
            domains=["Programming"], task_subtypes=[], license="apache-2.0", annotations_creators="derived",
            dialect=[], sample_creation="found", bibtex_citation="", prompt={"query": INSTRUCTION},
        )  # fmt: skip

        def load_data(self, *_: Any, **__: Any) -> None:
            functions = [one for one in python_docs.documents() if one.kind == "function" and len(one.text) > 150]
            chosen = functions[:: len(functions) // DOCUMENTS][:DOCUMENTS]
            halves = {one.id: (one.text.partition("\n\n")[0], one.text.partition("\n\n")[2]) for one in chosen}
            names = list(halves)
            queries = names[:QUERIES]
            nearby = {name: [names[(at + step) % DOCUMENTS] for step in range(10)] for at, name in enumerate(queries)}
            self.dataset["default"]["test"] = {
                "corpus": Dataset.from_dict({"id": names, "text": [signature for signature, _ in halves.values()]}),
                "queries": Dataset.from_dict({"id": queries, "text": [halves[name][1][:300] for name in queries]}),
                "relevant_docs": {name: {name: 1} for name in queries},
                "top_ranked": nearby if kind == "Reranking" else None,
            }
            self.data_loaded = True

    found = Described()
    found.dataset = {"default": {}}
    return found


def score(model: Any, kind: str = "Retrieval") -> float:
    import mteb

    results = mteb.evaluate(model, task(kind), cache=None, show_progress_bar=False)
    return float(results.task_results[0].scores["test"][0]["ndcg_at_10"])


def _reference(kind: str, path: str) -> float:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    model = SentenceTransformer(path, device="cpu") if kind == "Retrieval" else CrossEncoder(path, device="cpu")
    return score(model, kind)


@pytest.fixture
def cluster(ray_cluster: None) -> Iterator[Cluster]:  # noqa: ARG001
    with Cluster(ClusterSettings(workers=1)) as cluster:
        yield cluster


@pytest.mark.slow
def test_an_encoder_gives_the_results_of_sentence_transformers(cluster: Cluster, reference_process: Executor) -> None:
    from indexer.evaluation.mteb_models import MtebEncoder

    model = open_model(ModelSettings(name=minilm_path(), max_tokens=256, dtype="float32"), EAGER)
    with MtebEncoder(cluster, model) as encoder:
        ours = score(encoder)
    assert 0.3 < ours < 1
    assert ours == pytest.approx(reference_process.submit(_reference, "Retrieval", minilm_path()).result(), abs=1e-3)


@pytest.mark.slow
def test_a_cross_encoder_gives_the_results_of_sentence_transformers(
    cluster: Cluster, reference_process: Executor, tmp_path: Path
) -> None:
    from indexer.evaluation.mteb_models import MtebCrossEncoder

    path = cross_encoder(tmp_path / "cross-encoder")
    reranker = open_reranker(RerankerSettings(name=path, max_tokens=256, dtype="float32"), EAGER)
    with MtebCrossEncoder(cluster, reranker) as model:
        ours = score(model, "Reranking")
    assert ours == pytest.approx(reference_process.submit(_reference, "Reranking", path).result(), abs=1e-3)


class _Recorded:
    """A stand-in for the engines that keeps what they are asked."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    def embed(self, ids: TokenSequences) -> np.ndarray:
        self.asked.append(ids.tolist())
        return np.ones((len(ids), 256), np.float32)


def test_queries_carry_the_tasks_own_instruction_and_documents_none(qwen_path: str) -> None:
    from mteb.types import PromptType

    from indexer.evaluation.mteb_models import MtebEncoder

    model = open_model(ModelSettings(name=qwen_path, max_tokens=256), EAGER)
    encoder = MtebEncoder(Cluster(ClusterSettings()), model, width=64)
    recorded = _Recorded()
    encoder._serving = recorded  # type: ignore[assignment]
    for kind in (PromptType.query, PromptType.document):
        given = {"task_metadata": task().metadata, "hf_split": "test", "hf_subset": "default"}
        vectors = encoder.encode([{"text": ["one text"]}], prompt_type=kind, **given)
        assert vectors.shape == (1, 64)
        assert np.linalg.norm(vectors[0]) == pytest.approx(1)
    assert recorded.asked[0] == model.tokenizer.queries(["one text"], [INSTRUCTION]).tolist()
    assert recorded.asked[1] == model.tokenizer.documents(["one text"]).ids.tolist()


def test_models_that_give_several_vectors_are_refused(qwen_path: str) -> None:
    from indexer.evaluation.mteb_models import MtebEncoder

    model = open_model(ModelSettings(name=qwen_path, max_tokens=256, overflow="chunk"), EAGER)
    with pytest.raises(SettingsError, match=r"model\.overflow must be truncate"):
        MtebEncoder(Cluster(ClusterSettings()), model)
