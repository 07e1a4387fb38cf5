"""What a quantised model costs, with a stand-in: an engine whose vectors are turned by a known angle."""

from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import SettingsError
from indexer.evaluation import precision
from indexer.evaluation.precision import compare
from indexer.inference.model import Model
from indexer.settings import EvaluateSettings
from indexer.testing import corpora
from indexer.testing.checkpoints import qwen3_checkpoint
from indexer.testing.fakes import FakeEngine, FakeModel
from tests.support import fakes
from tests.support.checkpoints import FEW, int8_checkpoint, needs_bfloat16
from tests.support.local_cluster import LocalCluster


def index(root: Path, **model: Any) -> EvaluateSettings:
    """An index with texts in its payload, and queries that are some of the texts."""
    texts = corpora.random_texts(40, words=(12, 30))
    (root / "corpus").mkdir()
    pq.write_table(pa.table({"id": [f"d{at}" for at in range(40)], "text": texts}), root / "corpus" / "a.parquet")
    base = {"name": fakes.settings(root).model.name, "max_tokens": 128}
    corpus = {"uri": str(root / "corpus"), "payload": ["text"]}
    tables = {"uri": str(root / "index"), "widths": [128, 64]}
    fakes.run_here(fakes.settings(root, corpus=corpus, model=base | model, index=tables))
    pq.write_table(pa.table({"_id": [f"q{at}" for at in range(10)], "text": texts[:10]}), root / "queries.parquet")
    judged = {
        "query-id": [f"q{at}" for at in range(10)],
        "corpus-id": [f"d{at}" for at in range(10)],
        "score": [1] * 10,
    }
    pq.write_table(pa.table(judged), root / "judgements.parquet")
    return EvaluateSettings(
        index={"uri": str(root / "index")},
        queries={"uri": str(root / "queries.parquet")},
        judgements={"uri": str(root / "judgements.parquet")},
        engine={"enforce_eager": True},
        output={"uri": str(root / "out")},
        run={"progress": "none"},
    )


def test_cosine_and_change_in_quality_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = index(tmp_path)
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(fakes.WIDTHS[0]))
    stand_in = FakeModel.of(fakes.model(fakes.settings(tmp_path)), turned_to=0.9)
    found = compare(given, "fp8", model=stand_in, cluster=LocalCluster())  # type: ignore[arg-type]
    assert (found["documents"], found["queries"]) == (40, 10)
    assert found["cosine"]["least"] == pytest.approx(0.9, abs=1e-3)
    assert found["ndcg_at_10"] == {"exact": 1.0, "quantised": pytest.approx(1.0)}
    difference = found["difference"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert np.isfinite(list(difference.values())).all()


def test_a_query_that_is_a_document_is_no_result_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks with a document's text for the next document."""
    given = index(tmp_path)
    names = [f"d{at}" for at in range(10)]
    texts = pq.read_table(tmp_path / "corpus" / "a.parquet")["text"].to_pylist()[:10]
    pq.write_table(pa.table({"_id": names, "text": texts}), tmp_path / "queries.parquet")
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(fakes.WIDTHS[0]))
    vectors = FakeEngine(fakes.WIDTHS[0]).embed(fakes.model(fakes.settings(tmp_path)).tokenizer.documents(texts).ids)
    cosines = vectors @ vectors.T - 2 * np.eye(10)
    judged = {"query-id": names, "corpus-id": [names[at] for at in cosines.argmax(axis=1)], "score": [1] * 10}
    pq.write_table(pa.table(judged), tmp_path / "judgements.parquet")
    stand_in = FakeModel.of(fakes.model(fakes.settings(tmp_path)), turned_to=0.9)
    monkeypatch.setattr(precision, "DOCUMENTS", 0)  # those of the judgements only
    found = compare(given, "fp8", model=stand_in, cluster=LocalCluster())  # type: ignore[arg-type]
    assert found["ndcg_at_10"]["exact"] == 1.0


def _int8_costs(root: Path, plain: str, quantised: str) -> dict[str, Any]:
    given = index(root, name=plain, dtype="bfloat16")
    return compare(given, "compressed-tensors", quantised, cluster=LocalCluster())  # type: ignore[arg-type]


@pytest.mark.slow
@needs_bfloat16
def test_weights_and_activations_in_int8_are_measured_with_vllm(tmp_path: Path, engine_process: Executor) -> None:
    """The one quantisation that vLLM runs on a CPU; its fp8 does not start there."""
    plain = qwen3_checkpoint(tmp_path / "plain", FEW)
    found = engine_process.submit(_int8_costs, tmp_path, plain, int8_checkpoint(plain, tmp_path / "quantised")).result()
    assert 0.99 < found["cosine"]["least"] < 0.99999
    assert found["ndcg_at_10"]["quantised"] == pytest.approx(found["ndcg_at_10"]["exact"], abs=0.2)
    assert found["difference"]["low"] <= found["difference"]["mean"] <= found["difference"]["high"]


def test_an_index_that_is_quantised_itself_is_no_measure(tmp_path: Path) -> None:
    given = index(tmp_path, quantization="fp8")
    with pytest.raises(SettingsError, match="the index was made with fp8"):
        compare(given, "int8", cluster=LocalCluster())  # type: ignore[arg-type]
