"""Protects the versions of an epoch for as long as a reader uses them."""

import os
import platform
import secrets
import threading
import time

from indexer.errors import IndexerError
from indexer.progress import say
from indexer.storage import reader_tags
from indexer.storage.records import Epoch

LEASE_SECONDS = 6 * 3600.0
"""How long a tag counts that nobody renews. A killed reader keeps its epoch's files on disk for as long."""

RENEWALS = 6
"""How often a tag is renewed in that time: an object store may fail for hours before protection is lost."""


class EpochLease:
    """Tags on an epoch's versions, renewed in a thread until the lease is released."""

    def __init__(self, uri: str, epoch: Epoch, seconds: float = LEASE_SECONDS) -> None:
        """Tags the versions.

        Where that is not allowed, the epoch is read without protection, which is said once.

        Args:
            uri: LanceDB database.
            epoch: The epoch.
            seconds: How long a tag counts.
        """
        self._uri, self._versions, self._seconds = uri, epoch.versions(), seconds
        self._reader = f"{epoch.number}-{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._tag: str | None = None
        # Reentrant: collecting garbage may release a lease in the very thread that renews it.
        self._changing = threading.RLock()
        self._is_released = threading.Event()
        try:
            self._renew()
        except IndexerError as error:
            say(f"epoch {epoch.number} is read without protection from pruning: {error}", "WARNING")
            self._is_released.set()
            return
        threading.Thread(target=self._keep, name="epoch-lease", daemon=True).start()

    @property
    def is_held(self) -> bool:
        """Whether the epoch is protected."""
        return not self._is_released.is_set()

    def release(self) -> None:
        """Deletes the tags; a second call does nothing."""
        with self._changing:
            self._is_released.set()
            tag, self._tag = self._tag, None
            if tag is not None:
                reader_tags.let_go(self._uri, self._versions, tag)

    def _keep(self) -> None:
        """Renews the tags until the lease is released."""
        while not self._is_released.wait(self._seconds / RENEWALS):
            try:
                self._renew()
            except IndexerError:
                continue  # tried again before the present tag ends

    def _renew(self) -> None:
        """Tags the versions anew and deletes the tags before: a tag's name says when it ends."""
        with self._changing:
            if self._is_released.is_set():
                return
            tag = reader_tags.name_tag(self._reader, time.time() + self._seconds)
            if tag == self._tag:
                return  # less than a second has passed
            reader_tags.hold(self._uri, self._versions, tag)
            unneeded, self._tag = self._tag, tag
            if self._is_released.is_set():
                unneeded, self._tag = tag, None
            if unneeded is not None:
                reader_tags.let_go(self._uri, self._versions, unneeded)
