"""Engines on Ray's workers, whose results come back to this process; with the fake engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.cluster.connection import Cluster
from indexer.evaluation import run as evaluation_run
from indexer.evaluation.measures import MEASURES
from indexer.evaluation.remote_engine import SEQUENCES, RemoteEngine
from indexer.search.published import open_published
from indexer.settings import ClusterSettings, EvaluateSettings, Settings
from tests.support import fakes
from tests.support.local_cluster import LocalCluster
from tests.support.readers import fake_readers

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an index of 50 documents of two sentences."""
    root = tmp_path_factory.mktemp("remote")
    given = fakes.settings(root, corpus={"payload": ["text"]})
    rows = [(name, f"{text}. Nothing else of it is known.") for name, text in fakes.words(50)]
    fakes.write(root / "corpus" / "a.parquet", rows)
    fakes.run_here(given)
    return given


def test_workers_give_what_the_engine_gives_in_the_order_of_the_questions(indexed: Settings) -> None:
    """Of more questions than a worker is given at a time; the engine is made as an evaluation makes it."""
    published, model = open_published(indexed.index.uri, indexed.index.name), fakes.model(indexed)
    ids = model.tokenizer.queries([text for _, text in fakes.words(2 * SEQUENCES + 1)])
    with (
        Cluster(ClusterSettings(workers=1)) as cluster,
        RemoteEngine(cluster, published.make_engine(model), "embed") as serving,
    ):
        found = serving.embed(ids)
    np.testing.assert_array_equal(found, model.engine().embed(ids))


def test_an_evaluation_without_a_cluster_joins_that_of_its_settings(indexed: Settings, tmp_path: Path) -> None:
    """Its workers, and none of this process, start the engine, and what is measured is the same."""
    with fake_readers() as started:
        theirs = _measured(indexed, tmp_path / "theirs", None)
        assert not started
        ours = _measured(indexed, tmp_path / "ours", LocalCluster())
        assert started
    assert theirs == ours


def _measured(indexed: Settings, out: Path, cluster: Any) -> dict[str, list[float]]:
    """Measures by configuration; the workers are of the settings where no cluster is given."""
    given = EvaluateSettings(
        index={"uri": indexed.index.uri},
        known_items={"count": 10},
        compare={"vector_indices": [], "precisions": ["float32"], "text_search": False, "timed_queries": 1},
        output={"uri": str(out)},
        cluster={"workers": 1},
        run={"progress": "none"},
    )
    summary = evaluation_run.run(given, cluster)
    return {row["name"]: [row[name] for name in MEASURES] for row in summary["configurations"]}
