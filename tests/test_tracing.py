"""Spans of a run, as a collector gets them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from indexer import tracing
from tests.support.fakes import words, write

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]

RUN = """
import sys
from pathlib import Path
from tests.support.fakes import run_here, settings
root = Path(sys.argv[1])
run_here(settings(root))
(root / "corpus" / "a.parquet").unlink()
try:
    run_here(settings(root))
except Exception:
    pass
print(sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk")))
"""


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A server that keeps what is posted to it, and its address."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()


def run(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", RUN, str(root)],
        cwd=ROOT, env=kept | variables, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip


def test_stages_and_shards_are_spans_of_their_run(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(150))
    with collector() as (address, got):
        run(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_RESOURCE_ATTRIBUTES="team=search")
    requests = [ExportTraceServiceRequest.FromString(body) for body in got]
    sent = [resource for request in requests for resource in request.resource_spans]
    spans = [span for resource in sent for scope in resource.scope_spans for span in scope.spans]
    about = {one.key: one.value.string_value for one in sent[0].resource.attributes}
    assert (about["service.name"], about["team"]) == ("qwen3-batch-indexer", "search")
    published, failed = (span for span in spans if span.name == "index run")
    inside = [span for span in spans if span.parent_span_id == published.span_id]
    assert {span.name for span in inside} >= {"open", "scan", "compare", "embed", "commit", "index"}
    (embed,) = (span for span in inside if span.name == "embed")
    shards = [span for span in spans if span.name == "shard"]
    assert len(shards) > 1
    assert {span.parent_span_id for span in shards} == {embed.span_id}
    assert sum(one.value.int_value for span in shards for one in span.attributes if one.key == "documents") == 150
    assert all(embed.start_time_unix_nano <= span.start_time_unix_nano for span in shards)
    assert (failed.status.code, failed.status.message, list(failed.events)) == (2, "CorpusError", [])


def test_without_the_variables_nothing_is_imported(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "a.parquet", words(5))
    assert run(tmp_path).stdout.splitlines()[-1] == "[]"


def test_the_environment_s_own_name_and_no_exporter_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs")
    provider = tracing._provider.__wrapped__()
    assert provider.resource.attributes["service.name"] == "theirs"
    provider.shutdown()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing._tracer.__wrapped__() is None
