"""Vectors of another model, or of the same one computed otherwise, never reach a published table."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import RefusedError, SettingsError
from indexer.evaluation import run as evaluation_run
from indexer.inference.model import Model, open_reranker
from indexer.reranking import run as reranking_run
from indexer.search.published import open_published
from indexer.settings import EvaluateSettings, ScoreSettings
from indexer.storage.control import ControlStore
from indexer.testing.fakes import FakeEngine, FakeReranker
from tests.support.checkpoints import cross_encoder
from tests.support.fakes import WIDTHS, settings, words, write
from tests.support.fakes import run_here as run
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.heavy

OTHERWISE = [
    {"model": {"hf_overrides": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}}},
    {"model": {"quantization": "fp8"}},
    {"model": {"pooler_config": {"seq_pooling_type": "CLS"}}},
    {"engine": {"kv_cache_dtype": "fp8"}},
]


def named(sections: dict[str, dict[str, Any]]) -> str:
    ((section, given),) = sections.items()
    (key,) = given
    return key if section == "model" else f"{section}.{key}"


def given(root: Path, **sections: dict[str, Any]) -> Any:
    model = {"name": settings(root).model.name, "max_tokens": 128} | sections.pop("model", {})
    return settings(root, model=model, **sections)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with one more document to embed than it has."""
    root = tmp_path_factory.mktemp("index")
    write(root / "corpus" / "a.parquet", words(40))
    run(given(root))
    write(root / "corpus" / "b.parquet", [("new", "one more")])
    return root


@pytest.mark.parametrize("sections", OTHERWISE, ids=named)
def test_a_night_with_another_computation_is_refused_by_name(
    sections: dict[str, dict[str, Any]], published: Path
) -> None:
    with pytest.raises(
        SettingsError, match=rf"built with other settings: model: {named(sections)} \(published: None, asked:"
    ):
        run(given(published, **sections))
    assert open_published(str(published / "index"), "docs").epoch.number == 1


def test_a_reader_with_another_computation_is_refused_by_name(published: Path) -> None:
    reader = open_published(str(published / "index"), "docs", engine={"kv_cache_dtype": "fp8"})
    with pytest.raises(SettingsError, match=r'engine\.kv_cache_dtype: index None, query model "fp8"'):
        _ = reader.model


def test_readers_take_the_models_settings_from_the_epoch(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(20))
    run(given(tmp_path, model={"pooler_config": {"use_activation": True}}))
    model = open_published(str(tmp_path / "index"), "docs").model
    assert model.spec.overrides == {"pooler_config": {"use_activation": True}}


def test_an_engine_whose_vectors_are_turned_is_refused_before_it_embeds(published: Path) -> None:
    """Nothing else has changed: no list of arguments tells it."""
    with pytest.raises(
        RefusedError, match=r"gates\.published_cosine is 0\.99\d\d, allowed 0\.9990, .*40 documents"
    ) as refused:
        run(given(published), turned_to=0.99)
    assert refused.value.exit_code == 3
    store = ControlStore(str(published / "index"), "docs")
    assert not store.receipts(2).ids()
    assert store.pending_intent() is None


def test_a_reader_whose_vectors_are_turned_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_published(str(published / "index"), "docs")
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(WIDTHS[0]))
    assert reader.embed(["a question"]).shape == (1, WIDTHS[0])
    turned = open_published(str(published / "index"), "docs")
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(WIDTHS[0], turned_to=0.99))
    with pytest.raises(
        RefusedError, match=r"query engine was not used.*published_cosine is 0\.99\d\d, allowed 0\.9990"
    ):
        turned.embed(["a question"])


def _score(root: Path) -> Any:
    """jobs.score over one query of an index."""
    given = ScoreSettings(
        index={"uri": str(root / "index")},
        queries={"uri": str(root / "queries.parquet"), "candidates": 3},
        model={"name": str(root / "reranker"), "max_tokens": 128},
        output={"uri": str(root / "scores")},
    )
    reranker = FakeReranker.of(open_reranker(given.model, given.engine))
    cluster: Any = LocalCluster()
    return reranking_run.run(given, reranker, cluster=cluster)


def _evaluate(root: Path) -> Any:
    """jobs.evaluate on a few known items of an index."""
    given = EvaluateSettings(
        index={"uri": str(root / "index")}, known_items={"count": 5}, output={"uri": str(root / "evaluation")}
    )
    cluster: Any = LocalCluster()
    return evaluation_run.run(given, cluster)


@pytest.mark.parametrize("job", [_score, _evaluate])
def test_a_job_whose_query_engine_is_turned_is_refused(
    job: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "corpus" / "a.parquet", [(name, f"{text}. This is more of it.") for name, text in words(40)])
    pq.write_table(pa.table({"query_id": ["q"], "query": ["a question"]}), tmp_path / "queries.parquet")
    cross_encoder(tmp_path / "reranker")
    run(given(tmp_path, corpus={"payload": ["text"]}))
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(WIDTHS[0], turned_to=0.99))
    with pytest.raises(RefusedError, match=r"published_cosine is 0\.99\d\d, allowed 0\.9990"):
        job(tmp_path)
    monkeypatch.setattr(Model, "engine", lambda _: FakeEngine(WIDTHS[0]))
    assert job(tmp_path), "an engine that is not turned is taken"


def test_what_changed_since_the_epoch_is_named(published: Path) -> None:
    changed = given(published, engine={"max_num_seqs": 3})
    with pytest.raises(RefusedError, match=r"since epoch 1: engine\.max_num_seqs was not set, is 3"):
        run(changed, turned_to=0.99)


def test_the_same_engine_goes_on_and_harmless_arguments_change_nothing(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(30))
    run(given(tmp_path))
    write(tmp_path / "corpus" / "b.parquet", [("new", "one more")])
    harmless = {"gpu_memory_utilization": 0.3, "max_num_batched_tokens": 4096, "enforce_eager": True}
    summary = run(given(tmp_path, engine=harmless))
    assert (summary["indexed"], summary["unchanged"]) == (1, 30)
    assert summary["gates"]["gates.published_cosine"] == pytest.approx(1, abs=1e-5)
    first, second = (ControlStore(str(tmp_path / "index"), "docs").epoch(number).description for number in (1, 2))
    assert first.fingerprint == second.fingerprint
    assert (first.engine.published_cosine, second.engine.made_with["engine.enforce_eager"]) == (None, "true")


def test_an_interrupted_night_is_not_resumed_with_another_engine(tmp_path: Path) -> None:
    """Before the first epoch there is nothing published to compare with, but there are staged shards."""
    write(tmp_path / "corpus" / "a.parquet", words(40))
    with pytest.raises(RefusedError, match=r"gates\.norm_tolerance"):
        run(given(tmp_path, gates={"norm_tolerance": 1e-12}))
    write(tmp_path / "corpus" / "b.parquet", [("new", "one more")])
    with pytest.raises(RefusedError, match="an engine of this night was not used") as refused:
        run(given(tmp_path), turned_to=0.99)
    folders = re.findall(r"_docs/\w+/0{11}1", str(refused.value))
    assert len(folders) == 2
    for folder in folders:  # what the message says, followed literally
        shutil.rmtree(tmp_path / "index" / folder)
    summary = run(given(tmp_path), turned_to=0.99)
    assert (summary["indexed"], summary["resumed_shards"]) == (41, 0)


def test_half_precision_and_narrow_widths_are_exact_enough(tmp_path: Path) -> None:
    """The widest stored width is compared, whatever it is."""
    write(tmp_path / "corpus" / "a.parquet", words(30))
    narrow = given(tmp_path, index={"uri": str(tmp_path / "index"), "widths": [32], "precision": "float16"})
    run(narrow)
    write(tmp_path / "corpus" / "b.parquet", [("new", "one more")])
    with pytest.raises(RefusedError, match=r"gates\.published_cosine"):
        run(narrow, turned_to=0.99)
    assert 0.99999 < run(narrow)["gates"]["gates.published_cosine"] <= 1 + np.finfo(np.float32).eps * 4


def test_an_epoch_of_an_earlier_version_is_completed_by_its_own_vectors(tmp_path: Path) -> None:
    """It says nothing of engine arguments: those of tonight are admitted if they give its vectors, and recorded."""
    write(tmp_path / "corpus" / "a.parquet", words(30))
    run(given(tmp_path))
    file = tmp_path / "index" / "_docs" / "epochs" / "000000000001.json"
    content = json.loads(file.read_text())
    del content["description"]["engine"]
    file.write_text(json.dumps(content))
    otherwise = {"model": {"hf_overrides": {"rope_theta": 1.0}}, "engine": {"kv_cache_dtype": "fp8"}}
    assert run(given(tmp_path, **otherwise))["indexed"] == 0
    write(tmp_path / "corpus" / "b.parquet", [("new", "one more")])
    with pytest.raises(RefusedError, match="what made epoch 1 is not recorded"):
        run(given(tmp_path, **otherwise), turned_to=0.99)
    assert run(given(tmp_path, **otherwise))["indexed"] == 1
    found = open_published(str(tmp_path / "index"), "docs").epoch.description
    assert found.engine is not None
    assert found.fingerprint["engine.kv_cache_dtype"] == '"fp8"'
