"""What SECURITY.md promises."""

import ast
import hashlib
import itertools
import os
import random
import re
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from indexer.cluster import worker
from indexer.commands.entry import execute
from indexer.commands.print_answers import print_hits
from indexer.corpus.listing import list_files
from indexer.errors import CorpusError, IndexerError, SettingsError
from indexer.inference import checkpoint
from indexer.inference.model import Model, resolved
from indexer.progress import printable, say
from indexer.search.hits import Hit
from indexer.search.published import open_published
from indexer.settings import CorpusSettings, EngineSettings, IndexSettings, ModelSettings
from indexer.storage.put_once import PutOnceFolder
from tests.support import drive, fakes
from tests.support.checkpoints import FEW_TOKENS
from tests.support.fakes import published_rows, run_here, settings, words, write

ROOT = Path(__file__).parents[1]

SOURCES = sorted(path for folder in ("indexer", "jobs") for path in (ROOT / folder).rglob("*.py"))

FILTERS = {"filter", "where", "delete", "prefilter"}

MADE_BY = {"one_of", "between"}

CANARY, SECRET = "canarytext", "canarysecret"


def _filters(tree: ast.AST) -> Iterator[ast.expr]:
    """What is given to Lance and LanceDB as SQL."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        yield from (keyword.value for keyword in call.keywords if keyword.arg in FILTERS)
        if isinstance(call.func, ast.Attribute) and call.func.attr in FILTERS and not _is_of_files(call.func.value):
            yield from call.args


def _is_of_files(value: ast.expr) -> bool:
    """Whether a call is to an ObjectFolder, which deletes by name."""
    return ast.unparse(value) in {"self._files", "folder"}


def _is_built(value: ast.expr) -> bool:
    """Whether SQL is put together on the spot."""
    joined = isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.BinOp) and any(isinstance(side, ast.Constant) for side in (value.left, value.right))
    )
    text = (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in {"format", "join"}
    )
    return joined or text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_filters_are_made_in_one_place_and_nothing_is_pickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [ast.unparse(value) for value in _filters(tree) if _is_built(value)]
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"} & set(names)


def test_the_search_for_built_filters_finds_them() -> None:
    found = _filters(ast.parse('t.delete(f"id = {x}"); s.scanner(filter="id = " + x); q.where("id = {}".format(x))'))
    assert [_is_built(value) for value in found] == [True] * 3


HOSTILE = [
    "it's", "''", "' OR '1'='1", "'; DROP TABLE docs; --", "a\nb", "a/b/../c", "\\", "\\'", "%", "_", "\U0001f600",
    "é", "e\u0301", "x" * 10_000, " ", "\x00", "NULL", "\u202e", '"', "`id`",
]  # fmt: skip


@pytest.mark.heavy
def test_hostile_ids_delete_and_match_only_themselves(tmp_path: Path) -> None:
    documents = [*((name, f"document number {at}") for at, name in enumerate(HOSTILE)), *words(30)]
    given = settings(tmp_path)
    for removed in range(0, len(HOSTILE), 4):
        left = [*documents[:removed], *documents[removed + 1 :]] if removed else documents
        write(tmp_path / "corpus" / "a.parquet", left)
        run_here(given)
        for width in fakes.WIDTHS:
            assert published_rows(given, width) == sorted((name, 0) for name, _ in left)
    renamed = [(f"moved {name}", text) for name, text in documents]
    write(tmp_path / "corpus" / "a.parquet", renamed)
    loose = settings(tmp_path, gates={"max_removed": 1.0})
    assert run_here(loose)["moved"] == len(documents) - 1
    assert published_rows(loose, 96) == sorted((name, 0) for name, _ in renamed)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where a Ray puts its sockets, whose paths may have no more than 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_neither_text_nor_secret_is_written_anywhere_but_in_the_tables(tmp_path: Path, ray_folder: Path) -> None:
    """Over a run with forced failures; Ray's own log files, which its dashboard shows, are looked at too."""
    poison = _token_of("zebra", tmp_path)
    documents = [(name, f"{CANARY} {text}") for name, text in words(2)]
    documents[1] = ("killer", f"{CANARY} zebra")
    write(tmp_path / "corpus" / "a.parquet", documents)
    (tmp_path / "corpus" / "b.parquet").write_bytes(f"{CANARY} is not Parquet".encode())
    ray = ray_folder
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    secrets = {"AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET, "RAY_TMPDIR": str(ray)}
    sections = {
        "gates": {"max_quarantined": 0.7},
        "run": {"shard_mb": 0.004, "progress": "lines"},
    }
    ended = subprocess.run(
        drive.command(tmp_path, sections, exits_on=poison),
        cwd=ROOT, env=environment | secrets, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "row 1 of" in ended.stderr
    written = [path for path in (*ray.rglob("*"), *(tmp_path / "index" / "_docs").rglob("*")) if path.is_file()]
    assert any(path.parent.name == "logs" for path in written)
    assert {"receipts", "epochs", "intents", "quarantine"} <= {part for path in written for part in path.parts}
    for content in (ended.stdout.encode(), ended.stderr.encode(), *(path.read_bytes() for path in written)):
        assert CANARY.encode() not in content
        assert SECRET.encode() not in content


def _token_of(word: str, root: Path) -> int:
    from indexer.inference.embed_inputs import EmbedTokenizer

    (ids,) = EmbedTokenizer(settings(root).model.name, max_tokens=128).documents([word]).ids.tolist()
    return ids[1]


OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_NUM_REDIS_GET_RETRIES": "3"}
"""Environment of a process without a token; the others make it try 127.0.0.1 itself, and for three seconds."""


@contextmanager
def own_ray(
    folder: Path, variables: dict[str, str], settings: str = "address='local'"
) -> Iterator[subprocess.Popen[str]]:
    """A process with a Ray that a job started."""
    script = (
        "import sys, ray\n"
        "from indexer.cluster.connection import Cluster\n"
        "from indexer.settings import ClusterSettings\n"
        f"with Cluster(ClusterSettings({settings})):\n"
        "    print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    hidden = {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment | {"RAY_TMPDIR": str(folder)} | variables,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        yield process
        process.stdin.write("\n")


def address_of(process: subprocess.Popen[str]) -> str:
    """Address of a process's own Ray, once it has started."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stranger(script: str) -> subprocess.CompletedProcess[str]:
    """Another process of this machine, without a token."""
    command = [sys.executable, "-c", script]
    environment = os.environ | OPEN
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_jobs_have_a_ray_each_that_listens_on_loopback_and_wants_its_token(ray_folder: Path) -> None:
    """Two jobs that begin together; to one of them nobody has said where it runs."""
    with own_ray(ray_folder, {}) as one, own_ray(ray_folder, {}, settings="") as other:
        address, another = address_of(one), address_of(other)
        assert address
        assert another
        assert address != another
        listening = [
            connection.laddr.ip
            for job in (psutil.Process(one.pid), psutil.Process(other.pid))
            for each in [job, *job.children(recursive=True)]
            for connection in each.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        refused = stranger(f"import ray; ray.init(address='{address}', logging_level=50)")
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert refused.returncode


@pytest.mark.slow
def test_joining_a_cluster_without_authentication_warns(ray_folder: Path) -> None:
    with own_ray(ray_folder, OPEN) as process:
        joined = stranger(
            "from indexer.cluster.connection import Cluster; from indexer.settings import ClusterSettings\n"
            f"with Cluster(ClusterSettings(address='{address_of(process)}')): print('joined')"
        )
    assert joined.stdout == "joined\n"
    assert "without RAY_AUTH_MODE=token" in joined.stderr


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{SECRET}@bucket/docs",
        f"s3://AKIAKEY:{SECRET}/rest+of/it@bucket/docs",
        f"s3://{SECRET}@bucket/docs",
        f"s3://AKIAKEY%3A{SECRET}%40bucket/docs",
        f"s3://AKIAKEY:/{SECRET}@bucket/docs",
        f"s3://AKIAKEY:{SECRET}?x@bucket/docs",
        f"s3://AKIAKEY:{SECRET}#x@bucket/docs",
        f"https://user:8080/{SECRET}@host/docs?sv=1",
        f"s3://bucket/docs?secret_key={SECRET}",
        f"s3://bucket/docs?access={SECRET}",
        f"s3://bucket/docs?region=eu&se={SECRET}",
        f"s3://bucket/docs?endpoint_override=http://key:{SECRET}@host",
        f"https://host/c?sig={SECRET}",
        f"abfss://key:{SECRET}@account.dfs.core.windows.net/docs",
        f"s3://{SECRET.lower()}@account.dfs.core.windows.net/docs",
        f"s3:/key:{SECRET}@bucket/docs",
        f"s3://[{SECRET}/docs",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_shown(uri: str) -> None:
    for section in (CorpusSettings, IndexSettings):
        with pytest.raises(ValidationError) as refused:
            section(uri=uri)
        (error,) = refused.value.errors(include_input=False)
        assert error["msg"] in {
            "Value error, holds credentials; they are read from the environment only, e.g. AWS_SECRET_ACCESS_KEY",
            "Value error, is a URI with one slash; write two after the colon",
            "Value error, is no URI that can be read",
        }
    with pytest.raises(SettingsError) as refused_by_readers:
        open_published(uri, "docs")
    assert SECRET not in str(refused_by_readers.value)


def test_random_secrets_in_a_uri_are_refused() -> None:
    """Secrets of AWS are 40 characters of base64, of which 47 % have a slash."""
    draw = random.Random(0)
    letters = string.ascii_letters + string.digits + "+/"
    for _ in range(2000):
        secret = "".join(draw.choices(letters, k=40))
        with pytest.raises(ValidationError) as refused:
            CorpusSettings(uri=f"s3://AKIAIOSFODNN7EXAMPLE:{secret}@bucket/docs")
        assert secret not in str(refused.value.errors(include_input=False))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/docs/@scope/part-?.parquet", "s3://bucket/docs?region=eu-west-1&scheme=http", "gs://bucket/a=b/*",
        "s3://bucket/docs?endpoint_override=localhost:9000", "hdfs://namenode:8020/docs", "file:///data/a@b.parquet",
        "/data/user@host:docs/x.parquet", "docs/key=1/secret?.parquet",
        "abfss://docs@account.dfs.core.windows.net/a", "hf://datasets/owner/name@main/a",
    ],
)  # fmt: skip
def test_uris_without_credentials_pass(uri: str) -> None:
    assert CorpusSettings(uri=uri).uri.endswith(uri)


def test_no_error_quotes_a_uri() -> None:
    """Those of Arrow and obstore do."""
    for uri in ("bogus://canary/docs", "s3://Canary_/docs"):
        with pytest.raises(CorpusError) as refused:
            list_files(uri, "corpus.uri")
        assert "canary" not in str(refused.value).lower()
        assert "the " + uri.split(":", maxsplit=1)[0] + " URI" in str(refused.value)
    with pytest.raises(IndexerError) as unopened:
        PutOnceFolder("bogus://canary/docs", "x", "index.uri")
    assert "canary" not in str(unopened.value)


def test_nothing_that_is_printed_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\r\n\x9b1m\u202e\u2028\udcff"
    hit = Hit(
        f"id{hostile}", 0, 0.5, 0.5, {"module": hostile, "text": f"text {hostile}", "char_start": 0, "char_end": 99}
    )
    print_hits(f"question {hostile}", [hit], ["text"])
    say(f"reading {hostile}")
    with pytest.raises(SystemExit) as ended:
        execute(lambda: _fail(f"file {hostile}"))
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", printed.out + printed.err)
    assert len(printed.err.splitlines()) == 2
    assert r"id\x1b]0;owned" in printed.out
    assert printable("straße 漢字 👩\u200d👩 é") == "straße 漢字 👩\u200d👩 é"


def _fail(message: str) -> None:
    raise CorpusError(message)


def test_model_files_are_compared_with_recorded_digests(minilm_path: str) -> None:
    found = checkpoint.resolve(minilm_path, None)
    digest = hashlib.sha256((Path(minilm_path) / "model.safetensors").read_bytes()).hexdigest()
    checkpoint.check_files(found, {"model.safetensors": digest.upper()})
    for recorded in ({"model.safetensors": "0" * 64}, {"other.safetensors": digest}):
        with pytest.raises(SettingsError, match=r"model\.sha256"):
            checkpoint.check_files(found, recorded)
    other_here = Model(ModelSettings(name=minilm_path, sha256={"model.safetensors": "0" * 64}), EngineSettings(), None)
    with pytest.raises(SettingsError, match=r"model\.sha256"):
        other_here.engine()  # as a worker does on its own machine


def test_a_model_of_the_hub_that_is_not_pinned_is_warned_of(
    minilm_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "resolve", lambda name, _: checkpoint.Checkpoint(name, "abc123", minilm_path))
    resolved(ModelSettings(name="some/model", revision="abc123"))
    assert capsys.readouterr().err == ""
    resolved(ModelSettings(name="some/model", revision="main"))
    assert 'some/model is not pinned to a commit; the one of today is revision = "abc123"' in capsys.readouterr().err


def test_claims_are_not_made_through_a_link_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"indexer-claims-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IndexerError, match="is not ours"):
        worker._claim("core-0", wait=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_documents_cannot_end_themselves_or_speak_as_the_system(qwen_path: str) -> None:
    """Every added token of Qwen3, alone and in the middle of others."""
    from indexer.inference.embed_inputs import EmbedTokenizer
    from indexer.testing.qwen_tokenizer import QWEN_ADDED, QWEN_SPECIAL

    words_ = [*QWEN_SPECIAL, *QWEN_ADDED]
    texts = [*words_, *(f"a{one}{two}b" for one, two in itertools.pairwise(words_)), "".join(words_) * 50]
    for ids in EmbedTokenizer(qwen_path, 256).documents(texts).ids.tolist():
        assert [token for token in ids if token >= FEW_TOKENS] == [FEW_TOKENS]
