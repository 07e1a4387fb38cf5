"""Tags on published versions. Lance's clean-up, whoever starts it, never deletes a tagged version."""

import re
from collections.abc import Mapping

import lance

from indexer.errors import IndexerError, first_line
from indexer.storage.tables import open_latest, open_version
from indexer.storage.tag_files import delete_tag, list_tags

OURS = re.compile(r"indexer-(\d{12})-(\d+)")
"""Pattern of our tags: epoch and version. Two runs that finish one epoch may tag different versions."""


def protect(uri: str, versions: Mapping[str, int], epoch: int) -> None:
    """Tags the versions of an epoch, once.

    Args:
        uri: LanceDB database.
        versions: Version of every table.
        epoch: The epoch.

    Raises:
        IndexerError: A version cannot be opened.
    """
    for name, version in versions.items():
        dataset = open_version(uri, name, version)
        tag = f"indexer-{epoch:012d}-{version}"
        if tag in list_tags(dataset):
            continue
        try:
            dataset.tags.create(tag, version)
        except (OSError, ValueError) as error:
            if tag not in list_tags(dataset):  # another process may have made it
                open_version(uri, name, version)  # or pruned the version a moment ago, which this says
                raise IndexerError(f"version {version} of table {name} cannot be tagged: {first_line(error)}") from None


def release(dataset: lance.LanceDataset, kept: Mapping[int, int], closed: int) -> None:
    """Deletes our tags of forgotten epochs. Foreign tags and tags of an epoch under way stay.

    Args:
        dataset: The table.
        kept: Version of every epoch whose tag stays.
        closed: The latest published epoch.
    """
    for tag in list_tags(dataset):
        ours = OURS.fullmatch(tag)
        if ours and int(ours[1]) <= closed and kept.get(int(ours[1])) != int(ours[2]):
            delete_tag(dataset, tag)


def is_begun(uri: str, name: str, closed: int) -> bool:
    """Whether an epoch after the latest published one needs a table: a rollback tags what it is to publish.

    Raises:
        IndexerError: The table cannot be opened.
    """
    dataset = open_latest(uri, name)
    found = (OURS.fullmatch(tag) for tag in list_tags(dataset)) if dataset is not None else ()
    return any(ours is not None and int(ours[1]) > closed for ours in found)


def tagged(dataset: lance.LanceDataset) -> set[int]:
    """Versions that have a tag, ours or not."""
    return {int(tag["version"]) for tag in list_tags(dataset).values()}
