"""Spans of a run, as a collector gets them."""

import json
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

RUNS = """
import json, os, sys
from pathlib import Path
from indexer import tracing
from tests.support.fakes import run_here, settings

def runs(root):
    run_here(settings(root))
    (root / "corpus" / "a.parquet").unlink()
    try:
        run_here(settings(root))
    except Exception:
        pass

untold, told = map(Path, sys.argv[1:3])
runs(untold)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk"))))
os.environ |= json.loads(sys.argv[3])
tracing._tracer.cache_clear()
tracing._provider.cache_clear()
runs(told)
"""
"""Two runs without the variables, of which the second fails, and two with them: imports take most of the time."""


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


Traced = tuple[list[str], list[bytes]]
"""The packages' modules after runs without the variables, and what a collector got of those with them."""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    untold, told = (tmp_path_factory.mktemp(name) for name in ("untold", "told"))
    write(untold / "corpus" / "a.parquet", words(5))
    write(told / "corpus" / "a.parquet", words(150))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with collector() as (address, got):
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_RESOURCE_ATTRIBUTES": "team=search"}
        done = subprocess.run(
            [sys.executable, "-c", RUNS, str(untold), str(told), json.dumps(variables)],
            cwd=ROOT, env=kept, capture_output=True, text=True, timeout=240, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), got


def test_stages_and_shards_are_spans_of_their_run(traced: Traced) -> None:
    requests = [ExportTraceServiceRequest.FromString(body) for body in traced[1]]
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


def test_without_the_variables_nothing_is_imported(traced: Traced) -> None:
    assert traced[0] == []


def test_the_environment_s_own_name_and_no_exporter_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs")
    provider = tracing._provider.__wrapped__()
    assert provider.resource.attributes["service.name"] == "theirs"
    provider.shutdown()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing._tracer.__wrapped__() is None
