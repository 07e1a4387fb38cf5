"""Readers of a published index with the fake engine in place of vLLM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from indexer.inference.model import open_model
from indexer.search import query_model
from indexer.search.published import Published, open_published
from indexer.settings import EngineSettings, ModelSettings, Settings
from indexer.testing.fakes import FakeEngine, FakeModel


@dataclass(frozen=True)
class CountedModel(FakeModel):
    """A fake model that keeps the engines it started, as do its copies with other settings."""

    started: list["CountedEngine"] = field(default_factory=list)

    def engine(self) -> "CountedEngine":
        per_token = self.late_interaction is not None
        self.started.append(CountedEngine(self.checkpoint.dimension, per_token=per_token, **self.faults))
        return self.started[-1]


class CountedEngine(FakeEngine):
    """A fake engine that counts its batches, and that a test can stop.

    Attributes:
        batches: Calls so far.
        goes: Cleared, it makes calls wait.
    """

    is_closed = False

    def __init__(self, *arguments: Any, **faults: Any) -> None:
        super().__init__(*arguments, **faults)
        self.batches = 0
        self.goes = threading.Event()
        self.goes.set()

    def embed(self, sequences: Any) -> Any:
        self.batches += 1
        assert self.goes.wait(60)
        return super().embed(sequences)

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def fake_readers(**faults: Any) -> Iterator[list[CountedEngine]]:
    """Gives every reader opened in the block a fake engine; yields the engines."""
    started: list[CountedEngine] = []

    def fake(settings: ModelSettings, engine: EngineSettings) -> CountedModel:
        return replace(CountedModel.of(open_model(settings, engine), **faults), started=started)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_model, "open_model", fake)
        yield started


def open_reader(given: Settings, **options: Any) -> Published:
    """Opens the index of the settings."""
    return open_published(given.index.uri, given.index.name, **options)


def handle_sigint() -> None:
    """SIGINT raises KeyboardInterrupt, also in the background of a shell, whose processes ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
