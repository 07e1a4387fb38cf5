"""The commands as a user types them, with real engines: MiniLM on the CPU.

Where a process of its own would show nothing new, a command is called inside another one.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.commands import search
from indexer.commands.entry import start
from indexer.inference.tokenizer import text_encoder
from indexer.testing.checkpoints import minilm_path, qwen3_checkpoint
from indexer.testing.corpora import tiny_corpus
from tests.support.checkpoints import FEW, marked_reranker
from tests.support.commands import INDEX_CONFIG, exit_status
from tests.support.rays import end_ray, ray_processes

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]

DOCUMENTS = 150

CONFIG = (
    INDEX_CONFIG
    + """
[engine]
enforce_eager = true  # compiling takes longer than these documents
[cluster]
workers = 1  # every command starts its engines anew, and the other tests share the cores
[run]
shard_mb = 0.02
"""
)

SCORE_CONFIG = """
[queries]
uri = "{output}/queries.parquet"
candidates = {candidates}
width = 64
oversample = 1
[index]
uri = "{root}/index"
[model]
name = "{model}"
max_tokens = 512
[engine]
enforce_eager = true
[output]
uri = "{output}/out"
[cluster]
workers = 1
[run]
shard_pairs = {candidates}
"""

Job = Callable[..., subprocess.CompletedProcess[str]]

UNUSABLE = 2
"""Exit status of a command with settings that cannot be used."""

MARK = "COMMAND_OF"
"""Environment variable by which the processes of a command are known, whoever their parent is by now."""


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[str]:
    """A folder of its own for the Ray that a command starts; short, because sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield folder
    end_ray(folder)


@pytest.fixture(scope="module")
def environment(ray_folder: str) -> dict[str, str]:
    """A Ray of the command's own: by default it would join the other tests' cluster, which ends with them."""
    hidden = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return kept | {"RAY_TMPDIR": ray_folder, "INDEXER_CLUSTER__ADDRESS": "local"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job")
    tiny_corpus(root / "corpus", DOCUMENTS)
    file = root / "job.toml"
    file.write_text(CONFIG.format(root=root, model=minilm_path()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def job(config: Path, environment: dict[str, str]) -> Job:
    def call(
        module: str, *arguments: str, config: Path = config, typed: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"jobs.{module}", "--config", str(config), *arguments]
        marked = environment | {MARK: str(config)}
        return subprocess.run(
            command, cwd=ROOT, env=marked, capture_output=True, text=True, timeout=280, check=False, input=typed
        )

    return call


@pytest.fixture(scope="module")
def indexed(job: Job) -> dict[str, Any]:
    """Summary of the first run."""
    done = job("index")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_summary_is_the_last_line(indexed: dict[str, Any]) -> None:
    keys = {"epoch", "documents", "indexed", "quarantined", "truncated", "chunks", "tokens", "seconds"}
    assert keys | {"tokens_per_second", "tables"} <= indexed.keys()
    assert (indexed["epoch"], indexed["indexed"]) == (1, DOCUMENTS)
    named = {"name", "width", "rows", "bytes", "index", "recall", "recall_epoch"}
    assert [set(table) for table in indexed["tables"]] == [named] * 2


def test_nothing_is_left_running(indexed: dict[str, Any], ray_folder: str) -> None:
    assert indexed["epoch"] == 1
    _wait_for(lambda: not ray_processes(ray_folder), seconds=30)


def test_a_rerun_says_that_nothing_changed(indexed: dict[str, Any], job: Job) -> None:
    done = job("index")
    assert done.returncode == 0
    assert "nothing changed since epoch 1" in done.stderr
    assert json.loads(done.stdout)["tables"] == indexed["tables"]


def test_questions_are_answered_one_after_another(
    indexed: dict[str, Any], job: Job, config: Path, tmp_path: Path
) -> None:
    """With nothing but [index], at two widths, and an empty line in the middle; no process is left behind."""
    assert indexed["epoch"] == 1
    file = tmp_path / "index.toml"
    file.write_text(f'[index]\nuri = "{config.parent}/index"\n', encoding="utf-8")
    flags = ["--interactive", "--json", "--k", "3", "--width", "384", "--width", "64", "--where", "kind = 'page'"]
    typed = f"{_first_text(config)}\n\nanother question\n"
    done = job("search", *flags, "--checkpoint", minilm_path(), config=file, typed=typed)
    assert done.returncode == 0, done.stderr
    _wait_for(lambda: not _processes_of(file), seconds=5)
    with subprocess.Popen(["/bin/sleep", "60"], env={MARK: str(file)}) as left:
        _wait_for(lambda: _processes_of(file) == [left.pid], seconds=5)  # what is left behind would be seen
        left.kill()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["width"] for answer in answers] == [384, 64, 384, 64]
    for answer in answers:
        assert (answer["epoch"], answer["mode"], answer["model"]) == (1, "vector", minilm_path())
        assert answer["milliseconds"] > 0
        assert len({hit["id"] for hit in answer["results"]}) == 3
        assert not any("text" in hit["payload"] for hit in answer["results"])
        assert {hit["payload"]["kind"] for hit in answer["results"]} == {"page"}
    best = answers[0]["results"][0]
    assert best["score"] == pytest.approx(1.0, abs=1e-3)
    assert (best["id"], best["chunk"], best["text"]) == ("doc-00000", 0, _first_text(config))
    assert best["span"] == [0, len(best["text"])]


@pytest.fixture(scope="module")
def liked(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str]]:
    """A reranker that likes one token, and the documents that have it."""
    path = tmp_path_factory.mktemp("reranker")
    texts = _texts(config)
    encoder = text_encoder(qwen3_checkpoint(path, FEW, kind="reranker"))
    having: dict[int, set[str]] = {}
    for name, ids in zip(texts, encoder.encode(list(texts.values())).tolist(), strict=True):
        for token in ids:
            having.setdefault(token, set()).add(name)
    marker = next(token for token, names in having.items() if len(names) == 3)
    return marked_reranker(path, marker), having[marker]


def _search(*arguments: str) -> str:
    """What jobs.search prints, in a process for vLLM."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr("sys.argv", ["search", *arguments])
        search.main()
    return printed.getvalue()


def test_reranking_puts_what_the_reranker_likes_first(
    indexed: dict[str, Any], config: Path, liked: tuple[str, set[str]], engine_process: Executor
) -> None:
    assert indexed["epoch"] == 1
    path, names = liked
    flags = [f"--config={config}", "--k=3", "--json", f"--rerank={path}", f"--candidates={DOCUMENTS}"]
    reranked = json.loads(engine_process.submit(_search, "any question", *flags).result())["results"]
    assert {hit["id"] for hit in reranked} == names
    assert min(hit["score"] for hit in reranked) > 0.9


@pytest.mark.slow
def test_queries_are_searched_and_reranked(
    indexed: dict[str, Any], job: Job, config: Path, liked: tuple[str, set[str]], tmp_path: Path
) -> None:
    """Two stages with real engines: candidates at a narrow width, then the reranker's order."""
    assert indexed["epoch"] == 1
    path, names = liked
    file = tmp_path / "score.toml"
    file.write_text(SCORE_CONFIG.format(root=config.parent, output=tmp_path, model=path, candidates=DOCUMENTS))
    texts = _texts(config)
    pq.write_table(pa.table({"query_id": [1, 2], "query": list(texts.values())[:2]}), tmp_path / "queries.parquet")
    done = job("score", config=file)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["scored"] == 2 * DOCUMENTS
    found = pq.read_table(tmp_path / "out" / "scores").to_pylist()
    for query, own in zip("12", texts, strict=False):
        rows = {row["id"]: row for row in found if row["query_id"] == query}
        assert rows.keys() == texts.keys()
        assert {name for name, row in rows.items() if row["rank"] <= 3} == names
        assert max(rows.values(), key=lambda row: row["vector_score"])["id"] == own


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("index", ["--index.widths", "512"], "512 is not between 32 and the model's dimension 384"),
        ("search", ["question", "--index.name", "other"], "no epoch of index 'other' is published"),
    ],
)
def test_unusable_settings_end_with_status_2(
    indexed: dict[str, Any], job: Job, module: str, arguments: list[str], message: str
) -> None:
    assert indexed["epoch"] == 1
    done = job(module, *arguments)
    _check_unusable(module, done.returncode, done.stdout, done.stderr, message)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("index", ["--corpus.text_columns", "body"], "column 'body' is missing"),
        ("index", ["--model.name", "/no/such/model"], "model.name"),
        ("index", ["--engine.max_num_seq", "3"], "did you mean engine.max_num_seqs?"),
        ("search", ["question", "--width", "100"], "no table of width 100; there are 64, 384"),
        ("search", ["question", "--rerank", "/no/such/model"], "/no/such/model"),
    ],
)
def test_more_unusable_settings_end_with_status_2(
    indexed: dict[str, Any],
    config: Path,
    module: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They end before a Ray or an engine is asked for, in this process."""
    assert indexed["epoch"] == 1
    monkeypatch.setattr("sys.argv", [module, "--config", str(config), *arguments])
    capsys.readouterr()
    status = exit_status(lambda: start(module))
    _check_unusable(module, status, *capsys.readouterr(), message)


def _check_unusable(module: str, status: object, printed: str, said: str, message: str) -> None:
    # The last line of jobs.index on standard output is always a summary.
    last = printed.splitlines()[-1:]
    assert [json.loads(line)["status"] for line in last] == (["failed"] if module == "index" else [])
    assert status == UNUSABLE
    *before, last_line = said.splitlines()
    assert message in last_line
    # A run that got as far as the index has a report.
    assert not [line for line in before if " INFO report: " not in line]


@pytest.mark.slow  # with the fake engine it is among the default tests: tests/faults/test_lost_machines.py
def test_a_terminated_run_leaves_nothing_behind_and_is_resumed(
    job: Job, config: Path, environment: dict[str, str], ray_folder: str, tmp_path: Path
) -> None:
    tiny_corpus(tmp_path / "corpus", 300)
    flags = ["--corpus.uri", str(tmp_path / "corpus"), "--index.uri", str(tmp_path / "index")]
    command = [sys.executable, "-m", "jobs.index", "--config", str(config), *flags]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        _wait_for(lambda: any((tmp_path / "index").glob("_docs/receipts/*/*")), seconds=200)
        assert running.poll() is None, "ended before it could be terminated"
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "run the same command again to resume" in errors
    _wait_for(lambda: not ray_processes(ray_folder), seconds=30)
    done = job("index", *flags)
    assert "resuming epoch 1" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["tables"][0]["rows"] == 300


def _texts(config: Path) -> dict[str, str]:
    table = pq.read_table(config.parent / "corpus")
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))


def _first_text(config: Path) -> str:
    return _texts(config)["doc-00000"]


def _processes_of(config: Path) -> list[int]:
    """Processes that a command with these settings started, directly or not."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={config}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
