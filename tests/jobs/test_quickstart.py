"""The quickstart's corpus and model, and the quickstart as a newcomer runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import IndexerError
from jobs.demo import python_docs
from jobs.demo.python_docs import Document, documents, model_directory, write_corpus

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]

OTHERS = "from indexer.indexing import run; from indexer.search import published"
DIGEST = """
import hashlib, sys
from jobs.demo.python_docs import documents
texts = "".join(document.id + document.text for document in documents())
print(hashlib.sha256(texts.encode()).hexdigest(), *sys.modules)
"""


@pytest.fixture(scope="module")
def whole() -> list[Document]:
    return documents()


@pytest.fixture(scope="module")
def found(whole: list[Document]) -> dict[str, Document]:
    return {document.id: document for document in whole}


def test_documents_are_thousands_with_distinct_ids(whole: list[Document], found: dict[str, Document]) -> None:
    assert 5_000 <= len(whole) == len(found) <= 10_000
    assert {document.kind for document in found.values()} == {"module", "class", "function", "method", "topic"}


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("module:json", "json", "JavaScript Object Notation"),
        ("class:json.JSONEncoder", "json", "class json.JSONEncoder(*, skipkeys=False,"),  # defined in json.encoder
        ("function:json.dumps", "json", "json.dumps(obj, *, skipkeys=False,"),
        ("function:asyncio.run", "asyncio", "Execute the coroutine"),  # asyncio takes all of asyncio.runners
        ("class:collections.abc.Mapping", "collections.abc", "A Mapping is a generic container"),  # of a private module
        ("class:dict", "builtins", "dict() -> new empty dictionary"),  # written in C
        ("method:str.join", "builtins", "str.join(iterable, /)\n\nConcatenate any number of strings."),
        ("function:math.sqrt", "math", "math.sqrt(x, /)\n\nReturn the square root of x."),
        ("class:decimal.Decimal", "decimal", "Decimal"),
        ("method:threading.Thread.name", "threading", "threading.Thread.name\n\n"),  # a property
        ("topic:for", "pydoc", '"for" statement'),
    ],
)
def test_public_things_are_documented_under_their_public_names(
    found: dict[str, Document], name: str, module: str, words: str
) -> None:
    assert found[name].module == module
    assert words in found[name].text


def test_private_names_and_tests_are_left_out(found: dict[str, Document]) -> None:
    parts = {part for document in found.values() if document.kind != "topic" for part in document.name.split(".")}
    assert not {part for part in parts if part.startswith("_")}
    assert not {document.module.split(".")[0] for document in found.values()} & {"test", "idlelib", "turtledemo"}


def test_documents_do_not_depend_on_the_process_and_source_files_are_not_imported() -> None:
    digest, *loaded = _python(DIGEST, seed="1").split()
    assert "pydoc_data.topics" in loaded
    assert not {"antigravity", "this", "tkinter", "turtle", "wsgiref.simple_server"} & set(loaded)
    assert _python(OTHERS + DIGEST, seed="2").split()[0] == digest


def _python(code: str, seed: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_corpus_is_written_once(
    tmp_path: Path, whole: list[Document], found: dict[str, Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_docs, "documents", lambda: whole)
    assert write_corpus(tmp_path) == len(found)
    files = sorted(tmp_path.iterdir())
    assert all(pq.ParquetFile(file).num_row_groups > 1 for file in files)
    ids = pa.concat_tables(pq.read_table(file) for file in files)["id"].to_pylist()
    assert sorted(ids) == sorted(found)

    written = {file: file.stat().st_mtime_ns for file in files}
    damaged = files[0]
    pq.write_table(pq.read_table(damaged).slice(1), damaged)
    write_corpus(tmp_path)
    assert {file for file in files if file.stat().st_mtime_ns != written[file]} == {damaged}
    assert pa.concat_tables(pq.read_table(file) for file in files)["id"].to_pylist() == ids
    assert sorted(tmp_path.iterdir()) == files


def test_model_directory_is_the_packaged_model(tmp_path: Path) -> None:
    link = tmp_path / "deep" / "model"
    assert model_directory(link) == model_directory(link) == link
    assert (link / "tokenizer.json").is_file()


def test_model_directory_mends_a_dangling_link(tmp_path: Path) -> None:
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "gone")
    assert (model_directory(link) / "config.json").is_file()


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_docs, "MODEL_PACKAGE", "no_such_package")
    with pytest.raises(IndexerError, match="run `make quickstart`, or install the extra quickstart"):
        model_directory(tmp_path / "model")


@pytest.mark.parametrize(("package", "demonstration"), [("pydantic", "quickstart"), ("pyarrow", "nights")])
def test_a_demonstration_tells_a_package_that_is_not_installed_in_one_line(package: str, demonstration: str) -> None:
    script = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_module('jobs.demo', run_name='__main__')"
    command = [sys.executable, "-c", script, demonstration]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = f"{package} is not installed for {sys.executable}; run `make install` and use .venv, or install the package"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {said} {package}\n")


def test_a_mistyped_demonstration_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "jobs.demo", "quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = "error: unknown demonstration quick; there are quickstart, nights\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart_indexes_answers_and_does_nothing_again(tmp_path: Path) -> None:
    first, second = (_quickstart(tmp_path) for _ in range(2))
    assert "indexed " in first
    assert "python_d96" in first
    assert "tempfile.TemporaryDirectory" in first
    assert "epoch 1 has all" in second
    # Everything else is the same: the second run answers from the same tables.
    assert first[first.index("\nHow do I") :] == second[second.index("\nHow do I") :]


def _quickstart(directory: Path) -> str:
    command = [sys.executable, "-m", "jobs.demo", "quickstart", "--config", str(ROOT / "configs" / "quickstart.toml")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, cwd=directory, check=True, capture_output=True, text=True, timeout=400
    ).stdout
