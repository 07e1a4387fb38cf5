"""What workers are sent."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.indexing import run as indexing_run
from tests.support.fakes import model, settings, words, write
from tests.support.local_cluster import LocalCluster, LocalPool


class Sending(LocalCluster):
    """Notes the size of what every worker is sent."""

    size = 0

    def pool(self, make_pipeline: Callable[[], Any], most: int, *, whole: bool = False) -> LocalPool:  # noqa: ARG002
        self.size = len(pickle.dumps(make_pipeline))
        return LocalPool(make_pipeline)


def sent(root: Path, files: int) -> int:
    for number in range(files):
        write(root / "corpus" / f"{number}.parquet", [(f"{number}-{name}", text) for name, text in words(2, number)])
    given, cluster = settings(root), Sending()
    assert indexing_run.run(given, model(given), cluster)["indexed"] == 2 * files  # type: ignore[arg-type]
    return cluster.size


def test_workers_are_not_sent_the_list_of_all_files(tmp_path: Path) -> None:
    assert abs(sent(tmp_path / "many", 40) - sent(tmp_path / "some", 2)) < 100
