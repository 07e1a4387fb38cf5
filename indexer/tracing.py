"""OpenTelemetry spans of a run, if the environment asks for them by OpenTelemetry's own variables.

``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` turns them on; vLLM brings the packages.
Without either, or with ``OTEL_TRACES_EXPORTER=none``, nothing is imported. No other value of that variable counts.
The other variables of the exporter, the resource and the batches mean what they mean elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that name where spans go."""

SERVICE = "qwen3-batch-indexer"
"""Name of the service unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` gives another."""

UNNAMED = "unknown_service"
"""Name that the package gives a service without one."""

NANOSECONDS = 1e9

Value = str | int | float


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[None]:
    """A span around the block, inside the one that is open. An error marks it."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    # Messages of errors may quote a document: only the type is told.
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as one:
        try:
            yield
        except BaseException as error:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415  # there, or there were no tracer

            one.set_status(StatusCode.ERROR, type(error).__name__)
            raise


def record(name: str, began: float, ended: float, **attributes: Value) -> None:
    """A span that is over, inside the one that is open.

    Args:
        name: Its name.
        began: Seconds since 1970.
        ended: Seconds since 1970.
        attributes: What it was about.
    """
    tracer = _tracer()
    if tracer is not None:
        one = tracer.start_span(name, start_time=int(began * NANOSECONDS), attributes=attributes)
        one.end(int(ended * NANOSECONDS))


def flush() -> None:
    """Sends what has not been sent; a process that ends sends nothing more."""
    if _tracer() is not None:
        _provider().force_flush()


@cache
def _tracer() -> Any:
    """The tracer, ``None`` where nobody asked or the packages are not there."""
    asked = any(os.environ.get(name) for name in ASKED)
    refused = os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    refused |= os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not asked or refused:
        return None
    provider = _provider()
    return provider.get_tracer("indexer") if provider is not None else None


@cache
def _provider() -> Any:
    """Sends spans in batches from a thread of its own; ``None`` without the packages."""
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # production may lack the packages
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith(UNNAMED):
        resource = resource.merge(Resource({"service.name": SERVICE}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(_exporter()))
    return provider


def _exporter() -> Any:
    """Exporter for the protocol that the environment names, by default HTTP."""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc  # noqa: PLC0415

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http  # noqa: PLC0415

    return Http()
