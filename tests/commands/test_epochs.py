"""``qwen3-index epochs``: tables for people, JSON for programs, on real tables with the fake engine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.commands import epochs
from indexer.errors import RefusedError, SettingsError
from tests.support.fakes import WIDTHS, run_here, settings, words, write

CONFIG = """
[corpus]
uri = "{root}/corpus"
payload = ["kind"]
[model]
name = "{model}"
max_tokens = 128
[index]
uri = "{root}/index"
widths = {widths}
"""

Command = Callable[..., str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights: 30 documents, then 5 of them changed, 3 gone and 2 new; a third one is refused."""
    root = tmp_path_factory.mktemp("nights")
    write(root / "corpus" / "a.parquet", words(30))
    given = settings(root)
    run_here(given)
    write(root / "corpus" / "a.parquet", [*words(5, seed=1), *words(32)[8:], ("", "")])
    run_here(given)
    write(root / "corpus" / "a.parquet", words(3))
    with pytest.raises(RefusedError):
        run_here(given)
    return root


@pytest.fixture
def command(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str, root: Path = root) -> str:
        config = root / "job.toml"
        text = CONFIG.format(root=root, model=settings(root).model.name, widths=WIDTHS)
        config.write_text(text, encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["epochs", "--config", str(config), *arguments])
        capsys.readouterr()
        epochs.main()
        return capsys.readouterr().out

    return call


def test_epochs_are_a_table_and_json(command: Command) -> None:
    head, *rows = command("list").splitlines()
    assert head.split()[:4] == ["epoch", "published", "documents", "new"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert "\x1b" not in "".join(rows), "no colours outside a terminal"
    lines = [json.loads(line) for line in command("list", "--json").splitlines()]
    assert [(line["epoch"], line["changed"], line["documents"]) for line in lines] == [(1, 0, 30), (2, 5, 30)]
    assert [json.loads(line)["epoch"] for line in command("list", "--json", "--last", "1").splitlines()] == [2]


def test_runs_tell_what_was_refused_and_where_the_report_lies(command: Command, root: Path) -> None:
    table = command("runs")
    assert "refused, nothing published" in table
    assert "gates.max_removed is 0.8" in table
    lines = [json.loads(line) for line in command("runs", "--json").splitlines()]
    assert [line["summary"]["status"] for line in lines] == ["published", "published", "refused"]
    assert all(Path(line["report"]).is_file() for line in lines)
    assert table.splitlines()[-1] == f"report of the last run: {lines[-1]['report']}"
    assert str(root) in lines[-1]["report"]


def test_what_differs_between_two_epochs(command: Command) -> None:
    found = json.loads(command("diff", "1", "2", "--json"))
    assert found["documents"] == {"before": 30, "after": 29, "added": 2, "removed": 3, "changed": 5}
    assert found["quarantine"] == {"empty_text": [None, 1]}
    assert (found["settings"], found["made_with"]) == ({}, {})
    assert found["tables"]["96 rows"] == [30, 29]
    same = json.loads(command("diff", "2", "2", "--json"))
    assert same["documents"] == {"before": 29, "after": 29, "added": 0, "removed": 0, "changed": 0}
    assert not any(same[kind] for kind in ("settings", "made_with", "tables", "gates", "quarantine"))
    words_of_it = command("diff", "1", "2").split("\n")
    assert any(line.split() == ["documents", "changed", "5"] for line in words_of_it)


def test_a_changed_setting_is_named_with_both_values(command: Command, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    write(tmp_path / "corpus" / "a.parquet", words(30))
    given = settings(tmp_path)
    changed = {"max_tokens": 64, "query_instruction": "Find the page"}
    run_here(settings(tmp_path, model=changed, gates={"max_changed": 0.9}), rebuild=True)
    found = json.loads(command("diff", "2", "3", "--json", root=tmp_path))
    assert found["settings"]["model.max_tokens"] == [128, 64]
    assert found["settings"]["model.query_instruction"] == [given.model.query_instruction, "Find the page"]
    assert found["settings"]["gates.max_changed (bound)"] == [1.0, 0.9]
    assert "model.name" not in found["settings"]


def test_another_vllm_and_driver_are_named_with_both_values(command: Command, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    versions = {1: {"vllm": "0.31.0", "torch": "2.13.0"}, 2: {"vllm": "0.32.0", "torch": "2.13.0", "driver": "590.44"}}
    for number, made_with in versions.items():
        path = tmp_path / "index" / "_docs" / "epochs" / f"{number:012d}.json"
        epoch = json.loads(path.read_text(encoding="utf-8"))
        engine = {"made_with": made_with, "probe_ids": [], "probe_vectors": ""}
        epoch["description"]["engine"] = engine | {"published_cosine": None, "least_cosine": 0.99}
        path.write_text(json.dumps(epoch), encoding="utf-8")
    found = json.loads(command("diff", "1", "2", "--json", root=tmp_path))
    assert found["made_with"] == {"vllm": ["0.31.0", "0.32.0"], "driver": [None, "590.44"]}
    shown = [line.split() for line in command("diff", "1", "2", root=tmp_path).splitlines()]
    assert ["made", "with", "vllm", "0.31.0", "0.32.0"] in shown
    assert ["made", "with", "driver", "590.44"] in shown


def test_numbers_of_epochs_are_counted(command: Command) -> None:
    with pytest.raises(SettingsError, match="diff needs the numbers of two epochs"):
        command("diff", "1")
    with pytest.raises(SettingsError, match="show needs the number of an epoch"):
        command("show")
    with pytest.raises(SettingsError, match="there is no epoch 9"):
        command("diff", "1", "9")
