"""One document that kills a real engine."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from indexer.indexing import run
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.inference.sequences import TokenSequences
from tests.support.fakes import published_rows, quarantine, settings, words, write

DOCUMENTS = 2000

MARKER = "zebra"


class Aborting:
    """A real engine in a process that aborts, as a failed assertion in C does, when it reads the marker."""

    def __init__(self, engine: Embedder, marker: int) -> None:
        self._engine = engine
        self._marker = marker
        self.dimension = engine.dimension

    def embed(self, sequences: TokenSequences) -> np.ndarray:
        if any(self._marker in ids for ids in sequences):
            os.abort()
        return self._engine.embed(sequences)

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True)
class AbortingModel(Model):
    """The model with such an engine."""

    marker: int = -1

    def engine(self) -> Aborting:
        return Aborting(super().engine(), self.marker)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_cluster")
def test_one_of_two_thousand_kills_the_engine(tmp_path: Path) -> None:
    documents = words(DOCUMENTS)
    documents[777] = ("killer", f"{MARKER} {MARKER}")
    write(tmp_path / "corpus" / "a.parquet", documents)
    given = settings(tmp_path, engine={"enforce_eager": True}, run={"shard_mb": 8.0, "progress": "none"})
    (ids,) = EmbedTokenizer(given.model.name, max_tokens=128).documents([MARKER]).ids.tolist()
    opened = open_model(given.model, given.engine)
    summary = run.run(given, AbortingModel(opened.settings, opened.engine_settings, opened.revision, ids[1]))
    print(f"{summary['restarts']} restarts, {summary['indexed']} documents indexed")
    assert quarantine(given) == [("killer", "poison")]
    assert published_rows(given, 96) == sorted((name, 0) for name, _ in documents if name != "killer")
    assert summary["restarts"] <= math.ceil(math.log2(DOCUMENTS)) + 2
