"""A stand-in for the Hugging Face hub's HTTP API, with one data set: what its client lists and reads files with."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

REPO = "owner/docs"

API = f"/api/datasets/{REPO}"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as revision ``main`` of a data set, each reply of a share of requests being 503.

    Attributes:
        failures: Requests for bytes that will still be refused.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.failures = 0

    def entries(self) -> list[dict[str, Any]]:
        """Files as the tree's listing has them; half of them as large files."""
        found = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            name = path.relative_to(self.folder).as_posix()
            entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
            if len(found) % 2:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 128}
            found.append(entry)
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _json(self, content: object, status: int = 200, **headers: str) -> None:
        self._bytes(json.dumps(content).encode(), status, headers)

    def _bytes(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if path in {API, f"{API}/revision/main"}:
            self._json({"id": REPO, "sha": "0" * 40, "private": False, "tags": [], "siblings": []})
        elif path.startswith(f"{API}/tree/main"):
            below = path.removeprefix(f"{API}/tree/main").strip("/")
            found = [
                one for one in self.server.entries() if f"/{one['path']}".startswith(f"/{below}/" if below else "/")
            ]
            if not found:
                self._json({"error": "no such entry"}, 404, X_Error_Code="EntryNotFound")
            elif parse_qs(parts.query).get("recursive", ["false"])[0].lower() == "true":
                self._json(found)
            else:
                self._json([one for one in found if "/" not in one["path"].removeprefix(below).strip("/")])
        elif path.startswith(f"/datasets/{REPO}/resolve/main/"):
            self._range(self.server.folder / path.removeprefix(f"/datasets/{REPO}/resolve/main/"))
        else:
            self._json({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815  # names of http.server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = parse_qs(body.decode())["paths"]
        self._json([entry for entry in self.server.entries() if entry["path"] in wanted])

    def _range(self, path: Path) -> None:
        if self.server.failures:
            self.server.failures -= 1
            self._json({}, 503)
            return
        content = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        self._bytes(content[int(first) : int(last) + 1 if last else None], 206, {})


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    """The hub, for the client of this process and of those that it starts."""
    from huggingface_hub import constants

    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    with (
        mock.patch.dict("os.environ", {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}),
        mock.patch.object(constants, "ENDPOINT", endpoint),
        mock.patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
        mock.patch.object(constants, "HF_HUB_OFFLINE", new=False),
    ):
        yield server
    server.shutdown()
    server.server_close()
