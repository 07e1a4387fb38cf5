"""Mendings taken back: what the indexer did before. The random tester must find each of them."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lance
from lance.fragment import write_fragments

from indexer.corpus import shards
from indexer.corpus.shards import FileRows, Shard
from indexer.indexing import job as indexing_job
from indexer.indexing import run, stage, worklist
from indexer.indexing.job import Job
from indexer.publishing import condition, history, publish
from indexer.storage import cleanup, commits, control, epoch_work, put_once, tables
from indexer.storage.control import ControlStore
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import Epoch, canonical
from indexer.storage.tables import epoch_of, table_path


def _patch(place: Any, **new: Any) -> None:
    """Replaces what is there; a name that is gone is an error, or nothing would be taken back."""
    for name, value in new.items():
        getattr(place, name)
        setattr(place, name, value)


def _shards_of_paths() -> None:
    """6: a shard is named after its files and rows, whatever columns are read from them."""

    def salt(job: Job, work: str) -> str:
        return canonical([job.model.fingerprint, job.layout.describe(), job.layout.generation, job.epoch, work])

    def shard(parts: Sequence[FileRows], documents: int, text_bytes: int, salt: str) -> Shard:
        nameless = [FileRows(part.file, part.start, part.stop, part.mask, b"") for part in parts]
        named = real(nameless, documents, text_bytes, salt)
        return Shard(named.shard_id, tuple(parts), documents, text_bytes)

    real = shards._shard
    _patch(worklist, _salt=salt)
    _patch(shards, _shard=shard)


def _done_by_number() -> None:
    """7: a table that says epoch N is done for whatever is to be epoch N."""

    def commit(uri: str, name: str, change: commits.Change) -> int:
        dataset = lance.dataset(table_path(uri, name))
        return int(dataset.version) if epoch_of(dataset) == change.epoch else real(uri, name, change)

    real = commits.commit
    _patch(commits, commit=commit, holds=lambda *_: True)
    _patch(indexing_job, refuse_newer_tables=lambda *_: None)


def _latest_is_published() -> None:
    """8: what is the latest version when it is measured is published, whoever wrote it."""
    _patch(commits, holds=lambda *_: True)


def _nobody_owns() -> None:
    """9: a table of a name that is wanted is ours."""

    def owned(uri: str, name: str) -> set[str]:
        names = (found.removesuffix(".lance") for found in PutOnceFolder(uri, "", "index.uri").folders())
        return {found for found in names if found.startswith(f"{name}_")}

    for place in (tables, commits, cleanup, condition):
        _patch(place, check_owner=lambda *_, **__: None)
    _patch(condition, _is_free=lambda *_: True)
    _patch(cleanup, owned_tables=owned)


def _no_tags() -> None:
    """10: Lance's clean-up knows nothing of epochs."""
    for place in (publish, history, run):
        _patch(place, protect=lambda *_: None)


def _lost_receipts_count() -> None:
    """10: a receipt counts, whether or not its files are there."""
    _patch(stage, forget_lost=lambda _: None)


def _epochs_forgotten_last() -> None:
    """11: a prune deletes the tables' versions first, and then the epochs that name them."""

    def forget_work(self: ControlStore, kept: Sequence[Epoch], closed: int) -> None:
        real_work(self, kept, closed)
        numbers = {epoch.number for epoch in kept}
        forget_epochs(self, [number for number in self.epoch_numbers() if number <= closed and number not in numbers])

    forget_epochs, real_work = ControlStore.forget_epochs, ControlStore.forget_work
    _patch(ControlStore, forget_epochs=lambda *_: None, forget_work=forget_work)


def _all_names() -> None:
    """12: every file in the control folder is one of ours."""
    _patch(put_once, OUR_NAME=re.compile(r"(.+?)(?:\.([^.]*))?"))
    for place in (control, epoch_work):
        _patch(place, epoch_number=int)


def _all_files_whole() -> None:
    """12: an epoch's file is never empty or damaged."""

    def stems(self: PutOnceFolder, folder: str) -> set[str]:
        return {found[0] for found in self._ours(folder)}

    def readable(self: ControlStore, numbers: Iterable[int]) -> Iterable[Epoch]:
        return map(self.epoch, numbers)

    _patch(PutOnceFolder, stems=stems)
    _patch(ControlStore, _readable=readable)


def _columns_of_latest() -> None:
    """13: rows are staged for the columns that the table has in its latest version."""

    def staged(uri: str, name: str, table: Any) -> list[dict[str, Any]]:
        fragments = write_fragments(table, table_path(uri, name), schema=table.schema)
        return [fragment.to_json() for fragment in fragments]

    _patch(tables, stage=staged)


TAKEN_BACK: dict[str, Callable[[], None]] = {
    "shards_of_paths": _shards_of_paths,
    "done_by_number": _done_by_number,
    "latest_is_published": _latest_is_published,
    "nobody_owns": _nobody_owns,
    "no_tags": _no_tags,
    "lost_receipts_count": _lost_receipts_count,
    "epochs_forgotten_last": _epochs_forgotten_last,
    "all_names": _all_names,
    "all_files_whole": _all_files_whole,
    "columns_of_latest": _columns_of_latest,
}
"""By name, for points 6 to 13 of what was once lost."""
