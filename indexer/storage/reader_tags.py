"""Tags of readers on the versions that they read, so that neither pruning nor Lance's clean-up deletes them.

A tag's name says until when it counts. A reader that lives renews it; what a killed one leaves ends by itself. Clocks
of readers and pruning may differ by minutes: a tag counts for hours, and one that ends early only makes a reader say
that its epoch was pruned.
"""

import re
import time
from collections.abc import Container, Iterable, Mapping

import lance

from indexer.errors import IndexerError, first_line
from indexer.storage.tables import NOT_FOUND, table_path
from indexer.storage.tag_files import delete_tag, list_tags

PATTERN = re.compile(r"reader-(\d{12})-([A-Za-z0-9._-]+)")
"""Pattern of a reader's tag: the second since 1970 at which it ends, then who reads."""

UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]+")
"""What a tag's name cannot have."""


def name_tag(reader: str, ends: float) -> str:
    """Name of a tag.

    Args:
        reader: Who reads; no two readers share it.
        ends: Seconds since 1970 at which the tag stops to count.
    """
    return f"reader-{int(ends):012d}-{UNNAMEABLE.sub('-', reader)}"


def hold(uri: str, versions: Mapping[str, int], tag: str) -> None:
    """Tags versions. One that is gone is left out: reading it says so.

    Args:
        uri: LanceDB database.
        versions: Version of every table.
        tag: From :func:`name_tag`.

    Raises:
        IndexerError: The location cannot be written.
    """
    for name, version in versions.items():
        try:
            lance.dataset(table_path(uri, name)).tags.create(tag, version)
        except (OSError, ValueError) as error:
            if NOT_FOUND not in str(error).lower():
                let_go(uri, versions, tag)
                raise IndexerError(f"table {name} cannot be tagged: {first_line(error)}") from None


def let_go(uri: str, names: Iterable[str], tag: str) -> None:
    """Deletes a tag from tables. Where that fails it ends by itself."""
    for name in names:
        try:
            lance.dataset(table_path(uri, name)).tags.delete(tag)
        except (OSError, ValueError):
            continue


def release_ended(dataset: lance.LanceDataset) -> None:
    """Deletes the tags of readers that ended without doing so."""
    for tag in list_tags(dataset):
        found = PATTERN.fullmatch(tag)
        if found and int(found[1]) <= time.time():
            delete_tag(dataset, tag)


def holders(dataset: lance.LanceDataset, besides: Container[int] = ()) -> set[str]:
    """Readers that hold a version of a table.

    Args:
        dataset: The table.
        besides: Versions that do not count.

    Returns:
        A name for each.
    """
    found = ((PATTERN.fullmatch(tag), int(facts["version"])) for tag, facts in list_tags(dataset).items())
    return {tag[2] for tag, version in found if tag and int(tag[1]) > time.time() and version not in besides}
