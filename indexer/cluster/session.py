"""The session with Ray: joins the configured cluster, otherwise starts a Ray of our own."""

import logging
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import create_connection
from typing import Any

import ray
from ray._private import ray_constants, services

from indexer.errors import IndexerError, SettingsError, first_line
from indexer.progress import say

OBJECT_STORE_BYTES = 256 << 20
"""Shared memory of a Ray we start: only descriptions of work and receipts travel, never documents or vectors."""

LOCAL = "local"
"""Address that always starts a Ray of our own."""

JOB_VARIABLES = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID")
"""Variables that Ray sets in the environment of its jobs."""

PROBE_SECONDS = 5.0
"""How long the head of a cluster may take to accept a connection."""

CONNECT_SECONDS = 120.0
"""How long a cluster may take to complete a connection, and a Ray of our own to start."""

QUIET_SECONDS = 10.0
"""How long we wait without a progress line."""

LEAST_FREE_BYTES = 32 << 20
"""Space that Ray needs for its logs and sockets before its first task."""

QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


class RaySession:
    """A connection to Ray, opened in a thread of its own that ends with the connection."""

    def __init__(self, address: str | None) -> None:
        """Describes the session.

        Args:
            address: Ray's address from the settings; ``local`` means a Ray of our own. ``None`` means ``RAY_ADDRESS``,
                else the cluster of the Ray job that we run in, else a Ray of our own.
        """
        self._source = "cluster.address" if address else "RAY_ADDRESS"
        inside = "auto" if any(name in os.environ for name in JOB_VARIABLES) else LOCAL
        self._address = address or os.environ.get("RAY_ADDRESS") or inside
        self._ended = threading.Event()

    def open(self) -> None:
        """Joins or starts; signals and a deadline end the waiting.

        Raises:
            SettingsError: The address is not one of a Ray cluster.
            IndexerError: Nobody answers there, or no Ray can be started.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self._address != LOCAL:
            where = _checked(self._address, self._source)
            self._wait_for(lambda: ray.init(address=self._address, **QUIET), f"the Ray cluster at {where}")
            _warn_of_open_cluster()
            return
        _check_space()
        try:
            self._wait_for(_start_own, "a Ray of our own to start")
        except IndexerError as error:
            say(f"{error}; trying once more", "WARNING")
            ray.shutdown()
            self._wait_for(_start_own, "a Ray of our own to start")

    def close(self) -> None:
        """Disconnects, which ends a Ray that we started."""
        ray.shutdown()
        self._ended.set()

    def _wait_for(self, init: Callable[[], Any], what: str) -> None:
        """Calls ``ray.init`` in another thread: Ray waits in C++, which ignores signals."""
        done = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with warnings.catch_warnings():
                    # Lance warns of every fork; Ray's are followed by an exec, which leaves nothing of Lance behind.
                    warnings.simplefilter("ignore")
                    init()
            except BaseException as error:  # noqa: BLE001  # Ray raises Exception itself; SystemExit must not be lost
                errors.append(error)
            finally:
                done.set()
            # Linux ends Ray's processes when the thread that started them ends: this one waits for the session's end.
            self._ended.wait()

        began = time.monotonic()
        threading.Thread(target=work, name="ray", daemon=True).start()
        said = False
        while not done.wait(0.1):
            waited = time.monotonic() - began
            if waited > CONNECT_SECONDS:
                raise IndexerError(f"waited {CONNECT_SECONDS:.0f} s in vain for {what}")
            if waited > QUIET_SECONDS and not said:
                said = True
                say(f"waiting for {what}, for at most {CONNECT_SECONDS:.0f} s")
        if errors:
            raise IndexerError(f"waited in vain for {what}: {first_line(errors[0])}") from None


def _checked(address: str, source: str) -> str:
    """The address without a password, for messages, once somebody answers there."""
    if address == "auto":
        return "auto"
    scheme, has_scheme, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if (has_scheme and scheme != "ray") or not host or not port.isdecimal() or "@" in host:
        hint = "; http:// is the dashboard's, which only `ray job submit` takes" if scheme.startswith("http") else ""
        raise SettingsError(f"{source}: no address of a Ray cluster, which is written host:port, as head:6379{hint}")
    try:
        create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise IndexerError(
            f"{source}: nobody answers at {host}:{port} ({first_line(error)}); start the cluster, name another one, or "
            f"take a Ray of this machine alone with cluster.address = {LOCAL!r}"
        ) from None
    return f"{host}:{port}"


def _temporary() -> str:
    """Folder in which Ray puts its logs and sockets."""
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def _check_space() -> None:
    """Refuses a temporary folder without space: Ray would wait in vain for its own processes."""
    folder = _temporary()
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise IndexerError(f"Ray's temporary folder {folder} cannot be used: {error.strerror}") from None
    if free < LEAST_FREE_BYTES:
        raise IndexerError(
            f"{folder} is full ({free >> 20} MiB are left, Ray needs {LEAST_FREE_BYTES >> 20}): make space, or name "
            "another folder with RAY_TMPDIR"
        )


def _start_own() -> None:
    """Starts a Ray of our own, on loopback and in a process group of its own."""
    with _on_loopback(), _out_of_our_group():
        ray.init(
            address=LOCAL,
            num_cpus=len(os.sched_getaffinity(0)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **QUIET,
        )


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started in this block listens on loopback only."""
    # Ray listens on the machine's own address whatever `ray.init` is given: 2.60 replaces 127.0.0.1 by it. Only this
    # constant, meant for desktops outside a cluster, prevents that. Ray's processes read the variable. This process has
    # read it already, and Ray has no public way to change it afterwards.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]


@contextmanager
def _out_of_our_group() -> Iterator[None]:
    """Processes that Ray starts in this block have a session of their own."""
    # systemd and `timeout` send SIGTERM to the whole group. The driver then finishes the pieces in hand and needs its
    # workers for that. Only `ray start` has an option for it, and its Ray outlives a killed driver.
    kind = services.ConsolePopen

    class Apart(kind):  # type: ignore[misc,valid-type]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named, start_new_session=True)

    services.ConsolePopen = Apart  # type: ignore[misc]
    try:
        yield
    finally:
        services.ConsolePopen = kind  # type: ignore[misc]


def _warn_of_open_cluster() -> None:
    """Warns if the cluster is joined without token authentication."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        say(
            "warning: this Ray cluster is joined without RAY_AUTH_MODE=token: who reaches its ports can run code on it",
            "WARNING",
        )
