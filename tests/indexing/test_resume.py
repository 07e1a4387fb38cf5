"""A resumed run takes the receipts of its own settings and no others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.search import published
from indexer.storage.control import ControlStore
from tests.support.fakes import published_vectors, run_here, settings

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"id_column": "other"}, {}),
        ({"text_columns": ["other"]}, {"text_columns": ["text"]}),
        ({"text_columns": ["other", "text"]}, {"text_columns": ["text", "other"]}),
        ({"payload": ["other", "text"]}, {"payload": ["text", "other"]}),
    ],
)
def test_a_correction_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], after: dict[str, Any]
) -> None:
    rows = range(40)
    columns = {"id": [f"d{row}" for row in rows], "text": [f"text {row}" for row in rows]}
    (tmp_path / "corpus").mkdir()
    table = pa.table(columns | {"other": [f"other {row}" for row in rows]})
    pq.write_table(table, tmp_path / "corpus" / "a.parquet")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ControlStore, "put_intent", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_here(settings(tmp_path, corpus={"payload": []} | before))
    right = settings(tmp_path, corpus={"payload": []} | after)
    run_here(right)
    fresh = settings(tmp_path, corpus={"payload": []} | after, index={"uri": str(tmp_path / "fresh")})
    run_here(fresh)
    ours, theirs = (published_vectors(given, 96) for given in (right, fresh))
    assert ours.keys() == theirs.keys() == {f"d{row}" for row in rows}
    assert all((ours[name] == theirs[name]).all() for name in ours)
    payload = after.get("payload", [])
    found = published.open_published(right.index.uri, "docs").read(96, ["id", *payload]).sort_by("id").to_pylist()
    assert found == table.select(["id", *payload]).sort_by("id").to_pylist()
