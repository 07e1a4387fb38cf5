"""What every command has: sections that can be left out, a help that can be read, completion."""

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer.commands import adapt, completion, evaluate, index
from indexer.commands.command import command_line, load
from indexer.commands.main import COMMANDS
from indexer.errors import SettingsError
from indexer.settings import EvaluateSettings
from indexer.version import __version__

ROOT = Path(__file__).parents[2]

DEMO = str(ROOT / "configs" / "evaluate-quickstart.toml")


def test_a_section_is_left_out_by_a_flag() -> None:
    given = ["--config", DEMO, "--queries.uri", "q.jsonl", "--judgements.uri", "j.tsv"]
    with pytest.raises(SettingsError, match="set one of"):
        load(EvaluateSettings, command_line(""), given)
    settings, _ = load(EvaluateSettings, command_line(""), [*given, "--without", "known_items"])
    assert settings.known_items is None
    assert settings.queries is not None
    with pytest.raises(
        SettingsError, match=r"--without known_item: no file has this section \(did you mean known_items"
    ):
        load(EvaluateSettings, command_line(""), ["--config", DEMO, "--without", "known_item"])


@pytest.mark.parametrize("module", [index, evaluate, adapt])
def test_the_help_begins_with_the_command_s_own_flags(
    module: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["qwen3-index command", "--help"])
    with pytest.raises(SystemExit):
        module.main()  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    usage, rest = shown.split("\n\n", 1)
    assert len(usage.splitlines()) <= 6
    assert usage.endswith("[--SECTION.KEY VALUE ...]")
    assert rest.index("--config FILE") < rest.index("--index.uri") < rest.index("--cluster.workers")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_the_version(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"qwen3-index {name}", "--version"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"indexer.commands.{name}").main()
    assert (ended.value.code, capsys.readouterr().out) == (0, f"qwen3-index {__version__}\n")


@pytest.mark.parametrize(
    ("main", "flags", "message"),
    [
        (index.main, ["--plan", "--tune"], "not allowed with argument"),
        (index.main, ["--tune", "--budget", "0"], "leave out --budget"),
        (index.main, ["--tune", "--rebuild"], "leave out --rebuild"),
        (evaluate.main, ["--checkpoint", "dir"], "--checkpoint is read with --quantization only"),
        (evaluate.main, ["--compare.widths", "16"], "compare.widths"),
        (evaluate.main, ["--judgements.query_column", "score"], "judgements: each column is another one"),
    ],
)
def test_flags_that_nothing_would_read_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, main: Callable[[], None], flags: list[str], message: str
) -> None:
    config = tmp_path / "config.toml"
    sections = ["index", "corpus"] if main is index.main else ["index", "output", "queries", "judgements"]
    model = "[model]\nname = 'nothing'\n" if main is index.main else ""
    config.write_text(model + "".join(f"[{name}]\nuri = 'nowhere'\n" for name in sections))
    monkeypatch.setattr("sys.argv", ["job", "--config", str(config), *flags])
    with pytest.raises(SettingsError) as refused:
        main()
    assert message in str(refused.value)


def test_completion_knows_every_command_and_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["qwen3-index", "completion", "bash"])
    completion.main(COMMANDS)
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    for words, expected in (
        (["qwen3-index", "in"], {"index"}),
        (["qwen3-index", "index", "--bud"], {"--budget"}),
        (["qwen3-index", "index", "--gates.max_r"], {"--gates.max_removed"}),
        (["qwen3-index", "epochs", "--la"], {"--last"}),
    ):
        asked = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _qwen3_index"
        done = subprocess.run(
            ["/bin/bash", "-c", f'{asked}; echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True, check=True
        )
        assert set(done.stdout.split()) == expected
    monkeypatch.setattr("sys.argv", ["qwen3-index", "completion", "fish"])
    completion.main(COMMANDS)
    assert "-n '__fish_seen_subcommand_from index' -l budget" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["qwen3-index", "completion"])
    with pytest.raises(SettingsError, match="needs the name of a shell: bash, zsh, fish"):
        completion.main(COMMANDS)
