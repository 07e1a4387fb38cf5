"""Commands of the package inside a process of the tests: how one ends, and one with the fake engine."""

import signal
from collections.abc import Callable

import pytest

from indexer.commands import main
from indexer.indexing import job
from indexer.inference.model import open_model
from indexer.settings import EngineSettings, ModelSettings
from indexer.testing.fakes import FakeModel

INDEX_CONFIG = """
[corpus]
uri = "{root}/corpus"
payload = ["kind", "text"]
[model]
name = "{model}"
max_tokens = 128
[index]
uri = "{root}/index"
widths = [384, 64]
"""
"""Settings of a small index, to which a file adds its own sections."""


def exit_status(command: Callable[[], None]) -> object:
    """Runs a command to its end; SIGTERM, which it takes for itself, is given back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            command()
    finally:
        signal.signal(signal.SIGTERM, before)
    return ended.value.code


def run_with_fake_engine() -> None:
    """The program ``qwen3-index`` whose runs have the fake engine in place of vLLM."""

    def opened(settings: ModelSettings, engine: EngineSettings) -> FakeModel:
        return FakeModel.of(open_model(settings, engine))

    job.open_model = opened
    main.run()
