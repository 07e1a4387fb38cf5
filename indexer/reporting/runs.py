"""The reports of an index's runs: put once beside its other control files, never changed, never listed further back."""

from collections.abc import Iterable, Iterator

from indexer.errors import IndexerError
from indexer.progress import say
from indexer.reporting.record import SUCCESSFUL, RunReport
from indexer.storage.put_once import PutOnceFolder
from indexer.uris import shown

NIGHTS = 30
"""Reports that are read for trends: more would only make a night longer."""

FOLDER = "runs"


class RunReports:
    """The folder of reports."""

    def __init__(self, uri: str, name: str) -> None:
        """Opens the folder; nothing is created before the first put.

        Args:
            uri: Directory or object-store URI of the LanceDB database.
            name: Name of the index.

        Raises:
            IndexerError: The location cannot be opened.
        """
        self._files = PutOnceFolder(uri, f"_{name}", "index.uri")
        self._shown = f"{shown(uri).rstrip('/')}/_{name}/{FOLDER}"

    def put(self, report: RunReport, page: str) -> str:
        """Records a run.

        Args:
            report: The report.
            page: The same as an HTML page.

        Returns:
            Where the page lies.

        Raises:
            IndexerError: It cannot be written.
        """
        self._files.put(f"{FOLDER}/{report.stem}.html", page.encode())
        self._files.put(f"{FOLDER}/{report.stem}.json", report.to_json(indent=1).encode())
        return self.page_of(report)

    def page_of(self, report: RunReport) -> str:
        """Where the page of a report lies."""
        return f"{self._shown}/{report.stem}.html"

    def latest(self, most: int = NIGHTS) -> list[RunReport]:
        """The reports of the latest runs, oldest first; damaged ones are skipped with a progress line."""
        return list(self._read(sorted(self._files.stems(FOLDER))[-most:]))

    def latest_success(self) -> RunReport | None:
        """The report of the last run that left the index up to date, however long ago; ``None`` if none did."""
        stems = sorted(self._files.stems(FOLDER), reverse=True)
        return next(self._read(stem for stem in stems if stem.rpartition("-")[2] in SUCCESSFUL), None)

    def _read(self, stems: Iterable[str]) -> Iterator[RunReport]:
        """Reports by the stems of their files."""
        for stem in stems:
            try:
                yield RunReport.from_file(self._files, f"{FOLDER}/{stem}.json")
            except IndexerError as error:
                say(f"{error}: this report is passed over", "WARNING")
