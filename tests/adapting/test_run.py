"""Adaptations from pairs to the verdict, with real engines, a real index and a real worker."""

import json
import random
import shutil
import tomllib
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from indexer.adapting import pairs as adapting_pairs
from indexer.adapting import run as adapting_run
from indexer.adapting import weights
from indexer.adapting_settings import AdaptSettings
from indexer.commands.command import command_line, load
from indexer.evaluation import measures
from indexer.evaluation.measures import NDCG
from indexer.indexing import run as indexing_run
from indexer.inference import checkpoint
from indexer.publishing import history
from indexer.search.published import open_published
from indexer.settings import ModelSettings, RerankerSettings, Settings
from indexer.storage.control import ControlStore
from indexer.toml_text import section
from tests.support import adapting
from tests.support.checkpoints import cross_encoder
from tests.support.local_cluster import LocalCluster

pytestmark = pytest.mark.timeout(1200)
"""Every adaptation starts engines several times, which takes a minute each where processors are slow."""

EAGER = {"enforce_eager": True}

WIDTHS = [64, 32]

WORDS = (
    "river lamp stone cloud forest engine paper window garden silver copper winter summer music bridge mountain island "
    "desert harbour castle market village teacher doctor farmer soldier captain painter writer singer dancer baker"
).split()


def _documents(count: int) -> list[dict[str, str]]:
    """Documents of a few words each, the title being some of them; no two alike."""
    rng = random.Random(0)
    rows = []
    for at in range(count):
        words = rng.sample(WORDS, 6)
        one, two, place, *others = words
        body = f"once the {one} met the {two} near a {place} and then saw {others[0]} with {others[1]} and {others[2]}"
        rows.append({"_id": f"d{at}", "title": f"{words[0]} {words[3]} {words[5]}", "text": body})
    return rows


def make_index(root: str, base: str, *, wrong_titles: bool = False) -> None:
    """Writes an index of documents, and judged queries for a third of them; in a process for vLLM."""
    folder, rows = Path(root), _documents(90)
    if wrong_titles:
        titles = [row["title"] for row in rows]
        rows = [row | {"title": title} for row, title in zip(rows, titles[7:] + titles[:7], strict=True)]
    (folder / "corpus").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus" / "a.parquet")
    settings = Settings(
        corpus={"uri": f"{root}/corpus", "id_column": "_id", "text_columns": ["title", "text"],
                "payload": ["title", "text"]},
        model={"name": base, "max_tokens": 64, "dtype": "float32"},
        engine=EAGER,
        index={"uri": f"{root}/index", "widths": WIDTHS},
        run={"progress": "none"},
    )  # fmt: skip
    indexing_run.run(settings, cluster=LocalCluster())
    asked = rows[::3]
    queries = [{"_id": f"q{row['_id']}", "text": " ".join(row["text"].split()[2:9:3])} for row in asked]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{row['_id']}\t{row['_id']}\t1" for row in asked)]
    (folder / "qrels.tsv").write_text("\n".join(lines))


def _adapt(given: AdaptSettings) -> dict[str, Any]:
    """Adapts in a process for vLLM."""
    torch.set_num_threads(1)
    return adapting_run.run(given, LocalCluster())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, engine_process: Executor) -> Path:
    base = adapting.word_matcher(tmp_path_factory.mktemp("base"))
    root = tmp_path_factory.mktemp("adapting")
    engine_process.submit(make_index, str(root), base).result()
    return root


def settings(root: Path, **sections: Any) -> AdaptSettings:
    base: dict[str, Any] = {
        "index": {"uri": str(root / "index")},
        "queries": {"uri": str(root / "queries.jsonl")},
        "judgements": {"uri": str(root / "qrels.tsv")},
        "titles": {"query": "title", "count": 100},
        "train": {"steps": 6, "batch": 8, "mini_batch": 8, "checkpoints": 2, "learning_rate": 1e-3},
        "filter": {"keep_rank": 1000},
        "negatives": {"above_rank": 1, "margin": 0.0},
        "merge": {"shares": [0.5]},
        "output": {"uri": str(root / "out")},
        "engine": EAGER,
        "run": {"progress": "none"},
    }
    return AdaptSettings(**{name: base.get(name, {}) | sections.get(name, {}) for name in {*base, *sections}})


def guard(root: Path) -> dict[str, str]:
    """The collection itself, by its files."""
    return {
        "corpus": str(root / "corpus"),
        "queries": str(root / "queries.jsonl"),
        "judgements": str(root / "qrels.tsv"),
    }


def folder(root: Path, summary: dict[str, Any]) -> Path:
    """The folder of the run with this summary."""
    reports = (root / "out").glob("*/report.json")
    (found,) = (report.parent for report in reports if json.loads(report.read_text(encoding="utf-8")) == summary)
    return found


@pytest.fixture(scope="module")
def adopted(root: Path, engine_process: Executor) -> dict[str, Any]:
    """A run whose gates let everything pass, so that what is adopted can be looked at."""
    given = settings(root, gates={"max_width_loss": 1.0, "least_gain": -1.0}, merge={"shares": [0.25, 0.5]})
    return engine_process.submit(_adapt, given).result()


def test_nothing_that_judges_is_trained_on(root: Path, adopted: dict[str, Any]) -> None:
    found = adapting_pairs.from_table(pq.read_table(folder(root, adopted) / "pairs.parquet"))
    kept = adapting_pairs.trained(found)
    judges = [pair for pair in found if pair.split == "test"]
    assert len(judges) == 30
    assert len(kept) == adopted["pairs"]["trained"] > 20
    held = {pair.document_id for pair in found if pair.split != "train"}
    assert held.isdisjoint(pair.document_id for pair in kept)
    assert held.isdisjoint(name for pair in kept for name in pair.negatives)
    assert {pair.query for pair in judges}.isdisjoint(pair.query for pair in kept)
    texts = {adapting_pairs.key(pair.document) for pair in judges}
    assert texts.isdisjoint(
        adapting_pairs.key(text) for pair in kept for text in [pair.document, *pair.negatives.values()]
    )
    assert any(pair.negatives for pair in kept)
    for pair in kept:
        assert pair.query not in pair.document, "the title is taken out of its text"
        assert all(" once the " in f" {text}" and "\n" not in text for text in pair.negatives.values()), (
            "of negatives too"
        )
        assert pair.document_id not in pair.negatives


def test_the_report_has_both_models_at_every_width(root: Path, adopted: dict[str, Any]) -> None:
    names = [f"{width} {name}" for width in WIDTHS for name in ("base", "adapted")]
    assert [row["name"] for row in adopted["configurations"]] == names
    page = (folder(root, adopted) / "report.html").read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in page for name in names)
    assert "Adaptation of docs, epoch 1" in page
    assert page.count("<svg") == 1, "bytes and latencies are those of the index"
    queries = pl.read_parquet(folder(root, adopted) / "queries.parquet")
    for width in WIDTHS:
        base, ours = (
            queries.filter(pl.col("configuration") == f"{width} {name}")[NDCG].to_numpy()
            for name in ("base", "adapted")
        )
        (row,) = (row for row in adopted["configurations"] if row["name"] == f"{width} adapted")
        assert row["difference"]["mean"] == pytest.approx(float((ours - base).mean()), abs=1e-4)
        assert row["difference"]["low"] == pytest.approx(measures.difference(ours, base).low, abs=1e-4)


def test_an_adopted_model_is_a_model_section_away(root: Path, adopted: dict[str, Any]) -> None:
    assert adopted["status"] == "adopted"
    assert set(adopted["validation"]) == {"0.25", "0.5"}
    assert adopted["validation"][f"{adopted['share']:g}"] == max(adopted["validation"].values())
    section = tomllib.loads(adopted["recommendation"]["toml"])["model"]
    model = ModelSettings(**section)
    path = Path(model.name)
    assert path == folder(root, adopted) / "model"
    assert model.sha256.keys() == {"model.safetensors"}
    assert (model.max_tokens, model.dtype) == (64, "float32")
    base = Path(open_published(str(root / "index"), "docs").model.settings.name)
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    theirs = {str(file.relative_to(base)) for file in base.rglob("*") if file.is_file()}
    assert names - theirs == {"README.md"}
    differing = {name for name in theirs if (path / name).read_bytes() != (base / name).read_bytes()}
    assert differing == {"model.safetensors"}
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "| 64 |" in card
    assert json.loads((path.parent / "adapt.json").read_text())["parent"]["digest"] in card


def _rebuild(root: str, corpus: str, block: str) -> dict[str, Any]:
    """Indexes anew as the command does with the files of an index and of an adaptation, in a process for vLLM."""
    torch.set_num_threads(1)
    given, _ = load(Settings, command_line("test"), ["--config", str(_index_file(root, corpus)), "--config", block])
    return indexing_run.run(given, cluster=LocalCluster(), rebuild=True)


def _index_file(root: str, corpus: str) -> Path:
    """The file by which the index was made, which pins its model."""
    base = open_published(f"{root}/index", "docs").model
    path = Path(base.checkpoint.path)
    digests = {name: checkpoint.file_digest(path / name) for name in weights.files(path)}
    sections = {
        "corpus": {"uri": corpus, "id_column": "_id", "text_columns": ["title", "text"], "payload": ["title", "text"]},
        "model": {"name": base.settings.name, "max_tokens": 64, "dtype": "float32", "sha256": digests},
        "engine": EAGER,
        "index": {"uri": f"{root}/index", "widths": WIDTHS},
        "run": {"progress": "none"},
    }
    file = Path(root) / "index.toml"
    file.write_text("".join(section(name, keys) for name, keys in sections.items()))
    return file


def test_the_block_as_it_is_rebuilds_the_index_and_a_rollback_brings_the_base_back(
    root: Path, adopted: dict[str, Any], tmp_path: Path, engine_process: Executor
) -> None:
    shutil.copytree(root / "index", tmp_path / "index")
    before = open_published(str(tmp_path / "index"), "docs")
    block = folder(root, adopted) / "recommended.toml"
    assert block.read_text() == adopted["recommendation"]["toml"]
    summary = engine_process.submit(_rebuild, str(tmp_path), str(root / "corpus"), str(block)).result()
    assert (summary["status"], summary["indexed"]) == ("published", 90)
    after = open_published(str(tmp_path / "index"), "docs")
    assert after.model.settings.name == str(folder(root, adopted) / "model")
    assert after.model.fingerprint_digest != before.model.fingerprint_digest
    uri = str(tmp_path / "index")
    history.rollback(uri, ControlStore(uri, "docs"), before.epoch.number)
    assert open_published(str(tmp_path / "index"), "docs").model.fingerprint_digest == before.model.fingerprint_digest


def test_a_rerun_does_nothing(root: Path, adopted: dict[str, Any], engine_process: Executor) -> None:
    given = settings(root, gates={"max_width_loss": 1.0, "least_gain": -1.0}, merge={"shares": [0.25, 0.5]})
    before = (folder(root, adopted) / "report.json").stat().st_mtime_ns
    assert engine_process.submit(_adapt, given).result() == adopted
    assert (folder(root, adopted) / "report.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_model_that_was_spoilt_is_refused_and_not_adopted(root: Path, engine_process: Executor) -> None:
    """A learning rate at which nothing is left of the base."""
    train = {"steps": 4, "batch": 8, "mini_batch": 8, "checkpoints": 1, "learning_rate": 0.03}
    given = settings(root, guard=guard(root), train=train, merge={"shares": [1.0]})
    summary = engine_process.submit(_adapt, given).result()
    assert summary["configurations"][0][NDCG] > 0.5, "there was something to spoil"
    assert summary["status"] == "refused"
    named = {refusal.partition(":")[0] for refusal in summary["refusals"]}
    assert named == {"gates.least_gain", "gates.max_width_loss", "gates.guard_loss"}
    assert summary["recommendation"]["toml"] == ""
    left = {path.name for path in folder(root, summary).iterdir()}
    assert "model" not in left
    assert "candidate" not in left
    assert {"report.html", "pairs.parquet", "adapt.json"} <= left


@pytest.mark.slow
def test_a_model_that_its_engine_refuses_is_refused_and_not_an_error(root: Path, engine_process: Executor) -> None:
    """Weights that are no numbers, as training leaves them that diverges."""
    train = {"steps": 2, "batch": 8, "mini_batch": 8, "checkpoints": 1, "learning_rate": 1e20}
    summary = engine_process.submit(_adapt, settings(root, train=train, merge={"shares": [0.5, 1.0]})).result()
    assert (summary["status"], summary["adopted"]) == ("refused", False)
    assert "the adapted model cannot be used: " in summary["refusals"][0]
    assert "not finite" in summary["refusals"][0]
    base, adapted = summary["configurations"][:2]
    assert base[NDCG] > adapted[NDCG] == 0
    assert {"report.html", "adapt.json"} <= {path.name for path in folder(root, summary).iterdir()}


@pytest.mark.slow
def test_titles_of_other_documents_are_refused(tmp_path: Path, root: Path, engine_process: Executor) -> None:
    base = open_published(str(root / "index"), "docs").model.settings.name
    engine_process.submit(make_index, str(tmp_path), base, wrong_titles=True).result()
    train = {"steps": 12, "batch": 8, "mini_batch": 8, "checkpoints": 1, "learning_rate": 1e-3}
    summary = engine_process.submit(_adapt, settings(tmp_path, train=train, merge={"shares": [1.0]})).result()
    assert summary["pairs"]["trained"] > 20
    assert summary["status"] == "refused"
    assert summary["refusals"][0].startswith("gates.least_gain: the gain at width 64 is ")
    assert not list((tmp_path / "out").glob("*/model"))


@pytest.mark.slow
def test_a_reranker_is_trained_on_the_same_pairs_and_judged_by_reordering(
    root: Path, tmp_path: Path, engine_process: Executor
) -> None:
    reranker = {"name": cross_encoder(tmp_path), "max_tokens": 64, "dtype": "float32"}
    train = {"kind": "reranker", "steps": 6, "batch": 8, "mini_batch": 8, "checkpoints": 2, "learning_rate": 1e-3}
    gates = {"max_width_loss": 1.0, "least_gain": -1.0, "guard_loss": 1.0}
    given = settings(root, reranker=reranker, train=train, guard=guard(root), gates=gates)
    summary = engine_process.submit(_adapt, given).result()
    assert summary["guard"]["difference"] == summary["configurations"][1]["difference"], "it is the same collection"
    assert [row["name"] for row in summary["configurations"]] == ["64 base", "64 adapted"]
    assert summary["configurations"][0]["recall@100"] == 1.0, "both reorder what the index finds"
    model = RerankerSettings(**tomllib.loads(summary["recommendation"]["toml"])["reranker"])
    assert model.max_tokens == 64
    differing = {
        file.name
        for file in Path(model.name).rglob("*")
        if file.name != "README.md" and file.read_bytes() != (tmp_path / file.relative_to(model.name)).read_bytes()
    }
    assert differing == {"model.safetensors"}
    assert "yes or no in the prompt of the base" in (Path(model.name) / "README.md").read_text(encoding="utf-8")
