"""Which files differ from those that the published epoch was made of, and the comparison of their documents alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from indexer import schema
from indexer.errors import IndexerError
from indexer.indexing import diff, increment, published_rows, unreadable_files
from indexer.indexing.diff import RangeDiff
from indexer.indexing.increment import Known
from indexer.indexing.job import Job
from indexer.indexing.scan import Unread
from indexer.indexing.unreadable_files import NEVER
from indexer.storage.control import ControlStore
from indexer.storage.digest_files import DigestFiles
from indexer.storage.records import Epoch


@dataclass(frozen=True)
class FileChanges:
    """The files of tonight beside those of the published epoch.

    Attributes:
        added: Name of the digest of every new or changed file by the place of the file in the list.
        removed: Names of the digests that changed files had, and those of files that are gone.
        unchanged: Name of the digest of every other file by its place.
        places: Places of the unchanged files by their paths.
        left_out: One quarantined row of each file that cannot be read and never was, as
            :func:`indexer.indexing.unreadable_files.left_out` gives them.
        corpus_rows: Rows of the published epoch's corpus, without those of such files.
        has_copies: Whether that corpus has further rows of a document.
        copies: Name of the list of the ids that have some; ``None`` if the epoch has none.
        digests: Name of the digest of every file by its path, or :data:`indexer.indexing.unreadable_files.NEVER`.
    """

    added: dict[int, str]
    removed: list[str]
    unchanged: dict[int, str]
    places: dict[str, int]
    left_out: pa.Table
    corpus_rows: int
    has_copies: bool
    copies: str | None
    digests: dict[str, str]

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Names of the digests that are new, and of those that are gone."""
        return list(self.added.values()), self.removed


def since_published(job: Job, unread: Mapping[str, Unread]) -> FileChanges | None:
    """Compares the lists of files.

    Args:
        job: The run's inputs.
        unread: Files that cannot be read, by the names of their digests.

    Returns:
        The changes; ``None`` if the whole corpus has to be compared: the epoch does not say what it was made of, has
        other payload columns, its check in full is due, or documents of a file that cannot be read are published.
    """
    published = job.published
    if published is None or job.change.payload or _is_check_due(job, published):
        return None
    described, before = published.description, unreadable_files.published_list(job)
    if before is None or described.counts.kept:
        return None
    names = {file.path: job.corpus.digest_name(file) for file in job.corpus.files}
    now = {path: NEVER if name in unread else name for path, name in names.items()}
    never = [path for path, name in before.items() if name == NEVER]
    # Documents were left out besides, or files are unreadable that were read once.
    if described.to_retry != len(never) or any(before.get(file.path, NEVER) != NEVER for file in unread.values()):
        return None
    places = {path: at for at, path in enumerate(now)}
    # Files that were never read count as neither: each is one row, which tonight's comparison makes anew.
    same = {path for path, name in now.items() if before.get(path) == name != NEVER}
    removed = [name for path, name in before.items() if path not in same and name != NEVER]
    if len(now) != len(job.corpus.files) or not job.store.digests.names().issuperset(removed):
        return None
    return FileChanges(
        added={places[path]: name for path, name in now.items() if path not in same and name != NEVER},
        removed=removed,
        unchanged={places[path]: now[path] for path in same},
        places={path: places[path] for path in same},
        left_out=unreadable_files.left_out(job, unread),
        corpus_rows=described.counts.documents - len(never),
        has_copies=described.counts.duplicates > 0,
        copies=described.copies,
        digests=now,
    )


def _is_check_due(job: Job, published: Epoch) -> bool:
    """Whether the epoch is to be compared in full; epochs of versions that did not record the last time are."""
    checked = published.description.checked_in_full
    return checked is None or job.epoch - checked >= job.settings.run.full_check_every


def compare_range(
    names: tuple[str, str, str | None], files: FileChanges, published: Epoch, low: str | None, high: str | None
) -> RangeDiff:
    """Compares one range of ids; runs in a task, which opens the control files itself.

    Args:
        names: URI and name of the index, and the directory for digests of a run that must not write into it.
        files: The changes.
        published: The published epoch.
        low: As for :func:`indexer.indexing.increment.compare`, like the next.
        high: Id above the last one of the range, or ``None``.

    Raises:
        ContradictionError: The published epoch is not what its files give.
    """
    uri = names[0]
    digests = ControlStore(*names).digests

    def read(name: str) -> pa.Table:
        found = digests.read(name, diff.COMPARED, low, high)
        return published_rows.cut(found, low, high)

    known = Known(
        published=lambda ids: published_rows.keys_of(uri, published, ids.to_arrow().cast(pa.string()), low, high),
        elsewhere=lambda ids: _elsewhere(digests, files.unchanged, ids),
        quarantine=_quarantine(uri, published, files.places),
        copied=_copied(digests, files, low, high),
        left_out=files.left_out,
    )
    added = {at: read(name) for at, name in files.added.items()}
    return increment.compare(added, list(map(read, files.removed)), known, low, high)


def _copied(digests: DigestFiles, files: FileChanges, low: str | None, high: str | None) -> pl.DataFrame | None:
    """Ids in a range that had further rows; ``None`` if they are not known."""
    found = diff.COPIED_SCHEMA.empty_table()
    if files.has_copies:
        try:
            found = digests.get_copies(files.copies) if files.copies is not None else None
        except IndexerError:
            found = None  # somebody deleted the list
    return None if found is None else pl.DataFrame(pl.from_arrow(published_rows.cut(found, low, high)))


def _elsewhere(digests: DigestFiles, unchanged: dict[int, str], ids: pl.Series) -> pl.DataFrame:
    """Rows of some ids in the unchanged files."""
    wanted = ids.to_arrow().cast(pa.string())
    found = [diff.rows_of(digests.find(name, wanted), at) for at, name in unchanged.items()]
    return pl.concat([diff.rows_of(schema.DIGEST_SCHEMA.empty_table(), 0), *found])


def _quarantine(uri: str, published: Epoch, places: dict[str, int]) -> pa.Table:
    """The published quarantine with the place of every unchanged file in place of its path."""
    rows = published_rows.published_quarantine(uri, published, diff.LEFT_OUT)
    paths = rows["file"].unique().to_pylist()
    known = pl.DataFrame(
        {"file": paths, "place": [places.get(path) for path in paths]}, {"file": pl.String, "place": pl.Int32}
    )
    frame = pl.DataFrame(pl.from_arrow(rows)).join(known, on="file", how="left")
    return frame.drop("file").rename({"place": "file"}).select(diff.LEFT_OUT).to_arrow()
