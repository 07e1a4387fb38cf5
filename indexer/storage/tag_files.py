"""Lance's tags while other processes make and delete some: Lance lists their names first and reads each file after."""

from collections.abc import Callable
from typing import Any, TypeVar

import lance

from indexer.storage.tables import NOT_FOUND

TRIES = 20
"""Tries of a call that meets a tag deleted at that moment. Readers delete theirs when they end or renew."""

ResultT = TypeVar("ResultT")


def retried(call: Callable[[], ResultT]) -> ResultT:
    """Result of a call that reads the tags, tried again if one of them has just been deleted."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except (OSError, ValueError) as error:
            if NOT_FOUND not in str(error).lower():
                raise
    return call()


def list_tags(dataset: lance.LanceDataset) -> dict[str, Any]:
    """Facts of every tag by its name; ``version`` is one."""
    return retried(lambda: dict(dataset.tags.list()))


def delete_tag(dataset: lance.LanceDataset, tag: str) -> None:
    """Deletes a tag; one that is gone is no error."""
    try:
        dataset.tags.delete(tag)
    except (OSError, ValueError) as error:
        if NOT_FOUND not in str(error).lower():
            raise
