"""Small nights: index, change 3 %, run again, kill a run half way, resume it, roll back. Prints each summary.

Everything is real: MiniLM in vLLM, Ray, Lance tables in data/nightly-demo, which is emptied first.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.testing import corpora
from jobs.demo import python_docs

ROOT = Path("data/nightly-demo")

DOCUMENTS = 1000

STAGED = 2
"""Shards that are staged when the run is killed."""

HIDDEN = {"tables", "documents_table", "gates", "maintenance"}
"""Keys of a summary that are left out."""

CONFIG = """
[corpus]
uri = "{root}/corpus"
payload = ["kind"]
[model]
name = "{root}/model"
max_tokens = 128
[engine]
enforce_eager = true           # compiling takes longer than these documents
[index]
uri = "{root}/index"
widths = [384, 96]
[cluster]
address = "local"
"""


def main() -> None:
    """Plays the nights."""
    shutil.rmtree(ROOT, ignore_errors=True)
    python_docs.model_directory(ROOT / "model")
    corpora.tiny_corpus(ROOT / "corpus", DOCUMENTS)
    (ROOT / "config.toml").write_text(CONFIG.format(root=ROOT), encoding="utf-8")
    _run(f"first night: {DOCUMENTS} documents", "index")
    _change(DOCUMENTS * 3 // 100, "second")
    _run("second night: 3 % changed", "index")
    _change(DOCUMENTS, "third")
    _say("third night: all changed, killed half way")
    _kill_half_way()
    _run("the same command again", "index")
    _run("roll back to the second night", "publish", "rollback", "2")
    _run("what is published", "publish", "list", "--json")


def _run(title: str, job: str, *arguments: str) -> None:
    """Runs a command and prints the short form of its summaries."""
    _say(title)
    print("$", f"python -m jobs.{job}", *arguments, flush=True)
    done = subprocess.run([*_command(job), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        shown = {key: value for key, value in json.loads(line).items() if key not in HIDDEN}
        print(json.dumps(shown), flush=True)


def _kill_half_way() -> None:
    """Kills the process and the Ray that it started, without a chance to clean up, like the loss of a machine."""
    with subprocess.Popen(_command("index"), start_new_session=True) as running:
        receipts = ROOT / "index" / "_docs" / "receipts" / f"{3:012d}"
        while running.poll() is None and len(list(receipts.glob("*"))) < STAGED:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)


def _command(job: str) -> list[str]:
    """Command line of a job."""
    return [sys.executable, "-m", f"jobs.{job}", "--config", str(ROOT / "config.toml")]


def _change(count: int, word: str) -> None:
    """Inserts a word before the texts of the first documents."""
    left = count
    for file in sorted((ROOT / "corpus").glob("*.parquet")):
        table = pq.read_table(file)
        here, left = min(left, table.num_rows), max(0, left - table.num_rows)
        texts = [f"{word} {text}" if row < here else text for row, text in enumerate(table["text"].to_pylist())]
        if here:
            pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts)), file)


def _say(title: str) -> None:
    """Prints the title of a step."""
    print(f"\n== {title}", flush=True)
