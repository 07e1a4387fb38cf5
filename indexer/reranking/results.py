"""The folder of one scoring run: its identity, receipts, Parquet parts, the TREC run file. Each is put once.

``scores/`` holds the Parquet dataset, ``_candidates/`` the candidates for the reranker, ``_control/`` the receipts. A
folder is for one run: other pairs, another model or another epoch are refused.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa

from indexer.differences import differing
from indexer.errors import SettingsError
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.receipts import Receipts, ShardRecord
from indexer.uris import shown

Phase = Literal["search", "score"]

FOLDERS: dict[Phase, str] = {"search": "_candidates", "score": "scores"}

EPOCH = "epoch"
"""Key of what the index's epoch was made of, in what a run is known by."""

TABLE = "scores"
"""LanceDB table of a search's results."""

CANDIDATE_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("instruction", pa.string()),
        pa.field("id", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("vector_score", pa.float32()),
    ]
)
"""Candidates that the search passes to the reranker; the documents' texts stay in the index."""

RESULT_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("vector_score", pa.float32()),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)
"""Re-ranked results: ``rank`` counts from 1 within a query, by descending ``score``."""


class PartReceipt(ShardRecord):
    """One shard is written.

    Attributes:
        rows: Rows of its part.
        unscored: Rows without a score: no query, no document, or a score that is not finite.
        truncated: Rows whose text was cut.
        tokens: Tokens the engine read.
        cached_tokens: Tokens among them that came from the cache, because pairs of a query begin alike.
        fragments: Lance fragments of the part, where results also go to a table.
        seconds: Seconds per stage.
    """

    rows: int
    unscored: int
    truncated: int
    tokens: int
    cached_tokens: int
    fragments: list[dict[str, Any]]
    seconds: dict[str, float]


class ResultFolder:
    """Files of one scoring run."""

    def __init__(self, uri: str) -> None:
        """Opens the folder.

        Args:
            uri: Directory, made when missing, or object-store URI.

        Raises:
            IndexerError: The location cannot be opened.
        """
        self.uri = uri
        self._files = PutOnceFolder(uri, "", "output.uri")

    def claim(self, run: Mapping[str, Any]) -> None:
        """Claims the folder for a run.

        Args:
            run: Everything that determines the results, JSON-ready.

        Raises:
            SettingsError: The folder holds the results of another run; the message names the differences.
        """
        if self._files.put("_control/run.json", json.dumps(run, sort_keys=True).encode()):
            return
        known = json.loads(self._files.get("_control/run.json"))
        known.setdefault(EPOCH, run.get(EPOCH))  # earlier versions did not note it
        others = differing(known, run)
        if others:
            raise SettingsError(
                f"output.uri: {shown(self.uri)} holds the results of another run (other {', '.join(others)}); "
                "choose an empty folder"
            )

    def receipts(self, phase: Phase) -> Receipts[PartReceipt]:
        """Receipts of the shards of a phase."""
        return Receipts(self._files, f"_control/receipts/{phase}", PartReceipt)

    def put_part(self, phase: Phase, shard_id: str, table: pa.Table) -> pa.Table:
        """Writes a part; returns the one that counts. Two computations of one shard may differ by rounding."""
        name = f"{FOLDERS[phase]}/part-{shard_id}.parquet"
        return table if self._files.put_table(name, table) else self._files.get_table(name)

    def candidates_uri(self) -> str:
        """URI of the search's parts."""
        return f"{self.uri.rstrip('/')}/{FOLDERS['search']}"

    def put_trec(self, run: str) -> None:
        """Writes ``scores.trec`` from the parts of a finished run.

        A line is ``query_id Q0 id rank score run``. A document's best chunk counts. White space, control characters and
        "%" in names are percent-encoded, because the format has no quoting; an empty name becomes "%".

        Args:
            run: Name of the run.
        """
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".trec") as lines:
            for stem in sorted(self._files.stems(FOLDERS["score"])):
                lines.writelines(trec_lines(self._files.get_table(f"{FOLDERS['score']}/{stem}.parquet"), run))
            lines.flush()
            self._files.put("scores.trec", Path(lines.name))

    def summary(self) -> dict[str, Any] | None:
        """Summary of the finished run, or ``None``."""
        if "summary" not in self._files.stems("_control/finished"):
            return None
        return dict(json.loads(self._files.get("_control/finished/summary.json")))

    def put_summary(self, summary: Mapping[str, Any]) -> None:
        """Records that the run is finished."""
        self._files.put("_control/finished/summary.json", json.dumps(summary).encode())


def trec_lines(part: pa.Table, run: str) -> list[str]:
    """Lines of a part, :data:`RESULT_SCHEMA`; ranks count from 1 within a query."""
    lines: list[str] = []
    ranks: dict[str, dict[str, int]] = {}
    for row in part.to_pylist():
        documents = ranks.setdefault(row["query_id"], {})
        if row["score"] is not None and row["id"] not in documents:
            documents[row["id"]] = len(documents) + 1
            query, document = _one_word(row["query_id"]), _one_word(row["id"])
            lines.append(f"{query} Q0 {document} {documents[row['id']]} {row['score']:.9g} {_one_word(run)}\n")
    return lines


def _one_word(name: str) -> str:
    """A word without white space; different names give different words."""
    return re.sub(r"[\s%\x00-\x1f\x7f-\x9f\ufeff]", lambda found: quote(found.group(), safe=""), name) or "%"
