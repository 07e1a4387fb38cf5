"""The benchmark of a user's own case: sample and whole, peers that are missing or fail, the page."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import throughput
from benchmarks.contenders import servers
from benchmarks.support import flops, machine, own_corpus, reporting
from benchmarks.support.workload import Outcome, Work
from indexer.settings import CorpusSettings
from indexer.testing.checkpoints import minilm_path
from tests.support import sources

ROWS = [(f"d{row}", "word " * (5 + row), "a") for row in range(400)]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz"])
def test_a_sample_has_the_models_limit_and_stands_for_the_whole(tmp_path: Path, suffix: str) -> None:
    sources.write_files(tmp_path / "corpus", suffix, ROWS, files=4)
    wanted = Work(tmp_path / "work", minilm_path(), 40, "float32", engine={"max_num_seqs": "8"})
    work, whole = own_corpus.prepare(wanted, CorpusSettings(uri=str(tmp_path / "corpus")))
    assert (work.documents, len(work.texts), whole.documents, whole.files) == (40, 40, 400, 4)
    assert work.max_tokens == 256
    # Cut at a word's end, so that peers that cut nothing take the same texts.
    assert 254 <= max(work.lengths) <= 256
    longest = max(work.texts, key=len)
    assert 250 < longest.count("word") < 300
    assert len(work.model.tokenizer.documents([longest]).ids[0]) <= 256
    assert work.vllm_arguments == {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 8}


def _ours(*_: object) -> Outcome:
    """Ours."""
    return Outcome(1_000, 1.0, 0.5, {})


def _fails(*_: object) -> Outcome:
    """Always fails."""
    raise RuntimeError("ValueError: out of memory")


def _missing(*_: object) -> Outcome:
    raise RuntimeError("ModuleNotFoundError: No module named 'lance_ray'")


def test_what_fails_or_is_missing_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.write_files(tmp_path / "corpus", "csv", ROWS, files=1)
    monkeypatch.setattr(throughput, "apart", lambda run, *arguments: run(*arguments))
    monkeypatch.setattr(flops, "limits", lambda: {"bfloat16": 1e12, "float32": 1e12})
    monkeypatch.setattr(machine, "gpus", lambda: 4)
    known: dict[str, Any] = {"stock_vllm": _ours, "ray_data_lance": _missing, "engine": _fails, "job": _ours}
    monkeypatch.setattr(throughput, "EMBED", known)
    out = tmp_path / "out"
    given = ["--corpus", str(tmp_path / "corpus"), "--model", minilm_path(), "--documents", "50", "--rounds", "2"]
    monkeypatch.setattr(
        sys, "argv", ["throughput", *given, "--price", "3", "--engine.max_num_seqs=8", "--out", str(out)]
    )
    with pytest.raises(SystemExit, match="engine: ValueError: out of memory"):
        throughput.main()
    (page,) = out.glob("embed-corpus-*.md")
    text = page.read_text(encoding="utf-8")
    assert "absent: not installed: pip install lance-ray" in text
    assert "absent: ValueError: out of memory" in text
    assert "All 400 documents" in text
    tokens = int(text.split("about ")[1].split(" tokens")[0].replace(",", ""))
    # Ours uses four GPUs: 250 tokens/s of each, four times the GPU-hours of a peer on one.
    hours = tokens / 250 / 3600
    assert f"| job | 250 | {250 * 50 / (tokens / 8):,.1f} | {round(hours, 3):,} | {round(hours / 4, 3):,} |" in text
    assert f" {hours * 3:,.2f} |" in text
    assert "round 2: stock_vllm: 1,000 tokens/s" in capsys.readouterr().out


def test_flags_of_the_engine_and_peers_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, reason in (["--engin.x", "1"], "--engine.NAME VALUE"), (["--engine.x"], "--engine.NAME VALUE"):
        monkeypatch.setattr(sys, "argv", ["throughput", *flags])
        with pytest.raises(SystemExit):
            throughput._arguments()
        assert reason in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["throughput", "--help"])
    with pytest.raises(SystemExit):
        throughput._arguments()
    told = capsys.readouterr().out
    assert [name for name in {**throughput.EMBED, **throughput.SCORE} if f": {name}: " not in told] == []


def test_a_server_that_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModuleNotFoundError) as caught:
        servers.text_embeddings_inference(Work(tmp_path, "model", 1, "float32"), 0)
    assert "cargo install" in reporting.how_to_install(f"ModuleNotFoundError: {caught.value}")
    assert reporting.how_to_install("OSError: no such file") == "OSError: no such file"
