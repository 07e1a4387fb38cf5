"""Tokens that a real engine reads: none for other payloads and tables, once for equal texts, and equal vectors."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.indexing.run import run
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.search.published import open_published
from indexer.settings import Settings
from indexer.storage.tables import to_matrix
from indexer.testing import checkpoints, corpora
from tests.support import fakes, sources
from tests.support.conventions import TINY
from tests.support.local_cluster import LocalCluster

STARTED: list[Embedder] = []
"""The engine of this process: all nights have one checkpoint and one limit of tokens."""

ENGINE = {"enforce_eager": True, "max_num_seqs": 8}


@dataclass(frozen=True)
class OneEngine(Model):
    """A model whose engine starts once per process, for all nights."""

    def engine(self) -> Embedder:
        if not STARTED:
            STARTED.append(super().engine())
        return STARTED[0]


def given(root: Path, model: str, payload: tuple[str, ...] = ("kind",), **index: Any) -> Settings:
    return fakes.settings(
        root,
        corpus={"uri": str(root / "corpus"), "payload": list(payload)},
        model={"name": model, "max_tokens": 128},
        engine=ENGINE,
        index={"uri": str(root / "index"), "widths": [64, 32]} | index,
    )


def night(settings: Settings) -> int:
    """Tokens that one night embeds."""
    model = open_model(settings.model, settings.engine)
    ours = OneEngine(model.settings, model.engine_settings, model.revision)
    return int(run(settings, ours, LocalCluster())["tokens"])  # type: ignore[arg-type]


def write(root: Path, rows: list[tuple[str, str]], **columns: Any) -> None:
    names, texts = zip(*rows, strict=True)
    (root / "corpus").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"id": names, "text": texts, "kind": ["page"] * len(rows)} | columns), root / "corpus/a.parquet"
    )


def vectors(settings: Settings, width: int) -> dict[str, np.ndarray]:
    rows = open_published(settings.index.uri, "docs").read(width, ["id", "vector"])
    return dict(zip(rows["id"].to_pylist(), to_matrix(rows["vector"]), strict=True))


def nights(root: Path) -> dict[str, Any]:
    """Every case on one engine: tokens of its night, and the least cosine to an index that is made at once."""
    model = checkpoints.qwen3_checkpoint(root / "model", TINY, dtype="float32")
    texts = [(f"d{row}", text) for row, text in enumerate(corpora.random_texts(100, words=(5, 40)))]
    price = list(range(100))
    write(root, texts, price=price)
    found: dict[str, Any] = {"first": night(given(root, model))}
    both = ("kind", "price")
    found["a payload column more"] = night(given(root, model, both))
    write(root, texts, price=[value + 1 for value in price])
    found["another value in every row"] = night(given(root, model, both))
    found["a payload column less"] = night(given(root, model, ("price",)))
    found["a narrower width"] = night(given(root, model, ("price",), widths=[64, 48, 32]))
    found["a width less"] = night(given(root, model, ("price",), widths=[64, 48]))
    found["dot"] = night(given(root, model, ("price",), widths=[64, 48], metric="dot"))
    last = given(root, model, ("price",), widths=[64, 48], metric="dot", precision="float16")
    found["float16"] = night(last)
    copies = [*texts[:70], *((f"copy-{name}", text) for name, text in texts[:30])]
    write(root / "copies", copies)
    found["30 % copies"] = night(given(root / "copies", model))
    write(root / "seventy", texts[:70])
    found["without them"] = night(given(root / "seventy", model))
    write(root / "anew", texts)
    anew = given(root / "anew", model, widths=[64, 48])
    night(anew)
    found |= long_document(root / "long", model)
    copied = given(root / "copies", model)
    full = {width: vectors(anew, width) for width in (64, 48)}
    found["cosines"] = [
        *(_least_cosine(vectors(last, width), full[width]) for width in (64, 48)),
        _least_cosine(vectors(copied, 64), {name: full[64][name.removeprefix("copy-")] for name, _ in copies}),
    ]
    return found


def long_document(root: Path, model: str) -> dict[str, Any]:
    """A document of 20 chunks grows by a sentence: chunks, tokens, least cosine to an index that is made at once."""
    text = " ".join(f"Sentence {row} speaks of {row * 7919 % 1000} things, and of what they are." for row in range(130))

    def night_of(folder: Path, text: str) -> tuple[int, Settings]:
        write(folder, [("long", text), ("short", "a few words")])
        settings = given(folder, model)
        chunked = settings.model_copy(update={"model": settings.model.model_copy(update={"overflow": "chunk"})})
        return night(chunked), chunked

    first, settings = night_of(root, text)
    grown, _ = night_of(root, f"{text} One more.")
    _, anew = night_of(root / "anew", f"{text} One more.")
    ours, theirs = (
        open_published(one.index.uri, "docs").read(64, ["id", "chunk", "vector"]) for one in (settings, anew)
    )
    keyed = [
        {f"{name} {chunk}": vector for name, chunk, vector in zip(*columns, strict=True)}
        for columns in (
            (rows["id"].to_pylist(), rows["chunk"].to_pylist(), to_matrix(rows["vector"])) for rows in (ours, theirs)
        )
    ]
    return {"chunks": ours.num_rows - 1, "long": first, "grown": grown, "grown cosine": _least_cosine(*keyed)}


def _least_cosine(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    assert ours.keys() == theirs.keys()
    norms = {name: np.linalg.norm(vector) * np.linalg.norm(theirs[name]) for name, vector in ours.items()}
    return min(float(vector @ theirs[name] / norms[name]) for name, vector in ours.items())


def of_sources(root: Path, names: tuple[str, ...]) -> dict[str, tuple[int, float]]:
    """By source: tokens of its night, and the least cosine to the index of the first source."""
    model = checkpoints.qwen3_checkpoint(root / "model", TINY, dtype="float32")
    texts = corpora.random_texts(40, words=(5, 30))
    rows = [(f"d{row}", f'{text},\n"{row}"', "ab"[row % 2]) for row, text in enumerate(texts)]
    found = {}
    known: dict[str, np.ndarray] = {}
    for name in names:
        folder = root / name
        with sources.source(name, folder / "corpus", rows) as source:
            settings = given(folder, model)
            settings = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"uri": source.uri})})
            tokens = night(settings)
        ours = vectors(settings, 64)
        known = known or ours
        kinds = open_published(settings.index.uri, "docs").read(64, ["id", "kind"]).to_pylist()
        assert {row["id"]: row["kind"] for row in kinds} == {name: kind for name, _, kind in rows}, name
        found[name] = (tokens, _least_cosine(ours, known))
    return found


@pytest.fixture(scope="module")
def found(engine_process: Executor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return engine_process.submit(nights, tmp_path_factory.mktemp("nights")).result()


@pytest.mark.parametrize(
    "case",
    [
        *("a payload column more", "another value in every row", "a payload column less"),
        *("a narrower width", "a width less", "dot", "float16"),
    ],
)
def test_what_follows_from_stored_vectors_embeds_nothing(found: dict[str, Any], case: str) -> None:
    assert found["first"] > 100
    assert found[case] == 0


def test_copies_are_embedded_once(found: dict[str, Any]) -> None:
    assert 0 < found["30 % copies"] == found["without them"]


def test_a_text_that_grew_at_its_end_embeds_at_most_two_chunks(found: dict[str, Any]) -> None:
    assert found["chunks"] >= 20
    assert 0 < found["grown"] <= 2 * 128 < found["long"] / 8
    assert found["grown cosine"] >= 0.99999


def test_vectors_equal_those_that_are_computed_anew(found: dict[str, Any]) -> None:
    assert min(found["cosines"]) >= 0.99999


@pytest.mark.parametrize(
    "name",
    [
        # A night takes seconds, and tests/corpus shows that the others have the same texts.
        sources.param(name, *([] if name == "jsonl" else [pytest.mark.slow]))
        for name in sources.SOURCES
        if name != "parquet"
    ],
)
def test_every_source_gives_the_vectors_that_parquet_gives(engine_process: Executor, tmp_path: Path, name: str) -> None:
    found = engine_process.submit(of_sources, tmp_path, ("parquet", name)).result()
    assert {tokens for tokens, _ in found.values()} == {found["parquet"][0]} != {0}
    assert found[name][1] >= 0.99999
