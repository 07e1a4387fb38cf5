"""The command that adapts a model ends with the status that schedulers branch on."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.adapting import run
from indexer.commands.entry import start

CONFIG = Path(__file__).parents[2] / "configs" / "adapt-quickstart.toml"


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """A command takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("refusals", "status"), [(["width 32 lost 0.02 of nDCG@10"], 3), ([], 0)])
def test_a_model_that_is_not_better_ends_with_status_3(
    refusals: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary: dict[str, Any] = {
        "adopted": not refusals,
        "refusals": refusals,
        "recommendation": {"toml": "[model]"},
        "report": "out/report.html",
    }
    monkeypatch.setattr(run, "run", lambda _: summary)
    monkeypatch.setattr("sys.argv", ["qwen3-index adapt", "--config", str(CONFIG)])
    with pytest.raises(SystemExit) as ended:
        start("adapt")
    out, said = capsys.readouterr()
    assert ended.value.code == status
    assert json.loads(out) == summary, "the reasons are there for programs too"
    assert ("the adapted model is not adopted: width 32 lost 0.02 of nDCG@10" in said) == bool(refusals)
    assert ("jobs.index --config FILE --config out/recommended.toml --rebuild" in said) == (not refusals)
