"""Settings: file < environment < command line, and the refusals."""

from pathlib import Path

import pytest

from indexer.commands.command import command_line, load
from indexer.commands.settings import _model
from indexer.errors import SettingsError
from indexer.settings import Settings

MINIMAL = """
[corpus]
uri = "corpus"
[model]
name = "model"
[index]
uri = "index"
widths = [256, 64]
[engine]
max_num_seqs = 64
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "job.toml"
    file.write_text(MINIMAL, encoding="utf-8")
    return file


def read(config: Path, *flags: str) -> Settings:
    settings, _ = load(Settings, command_line("test"), ["--config", str(config), *flags])
    return settings


def test_the_file_is_read(config: Path) -> None:
    settings = read(config)
    assert settings.index.widths == [256, 64]
    assert settings.engine.arguments == {"max_num_seqs": 64}
    assert settings.model.overflow == "truncate"


def test_another_model_of_a_later_file_has_none_of_the_earlier_ones_digests(config: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.toml" for name in "abc")
    first.write_text('[model]\nname = "owner/model"\nrevision = "abc"\nmax_tokens = 64\nsha256 = {a = "0"}\n')
    second.write_text('[model]\nname = "/data/adapted"\nsha256 = {b = "1"}\n')
    third.write_text('[model]\nname = "owner/model"\ndtype = "float32"\n')
    adapted = read(config, "--config", str(first), "--config", str(second)).model
    assert (adapted.name, adapted.revision, adapted.max_tokens) == ("/data/adapted", None, 64)
    assert adapted.sha256 == {"b": "1"}
    same = read(config, "--config", str(first), "--config", str(third)).model
    assert (same.revision, same.sha256, same.dtype) == ("abc", {"a": "0"}, "float32")


def test_paths_hold_in_every_folder_and_uris_stay(config: Path) -> None:
    settings = read(config, "--index.uri", "s3://bucket/index")
    assert settings.corpus.uri == str(Path.cwd() / "corpus")
    assert settings.index.uri == "s3://bucket/index"


def test_a_submitted_job_refuses_relative_paths(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder it runs in is Ray's, and is deleted with the job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SettingsError, match=r"corpus\.uri: is a relative path.*give a URI, or an absolute path"):
        read(config, "--index.uri", "s3://bucket/index")
    settings = read(config, "--index.uri", "s3://bucket/index", "--corpus.uri", "/data/docs")
    assert (settings.corpus.uri, settings.index.uri) == ("/data/docs", "s3://bucket/index")


def test_environment_goes_before_the_file_and_flags_before_both(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEXER_INDEX__NAME", "from_environment")
    monkeypatch.setenv("INDEXER_MODEL__MAX_TOKENS", "100")
    monkeypatch.setenv("INDEXER_ENGINE__ENFORCE_EAGER", "true")
    settings = read(config, "--model.max_tokens", "200", "--index.widths", "128,32", "--engine.max_num_seqs=8")
    assert settings.index.name == "from_environment"
    assert settings.model.max_tokens == 200
    assert settings.index.widths == [128, 32]
    assert settings.engine.arguments == {"max_num_seqs": 8, "enforce_eager": True}


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("[corpus]\nuri = 'x'\nid_colum = 'a'", r"unknown key corpus\.id_colum \(did you mean id_column\?\)"),
        ("[modle]\nname = 'x'", r"unknown section \[modle\] \(did you mean model\?\)"),
        ("[index]\nuri = 'x'\nwidths = [16]", "width 16 is below 32"),
        ("[index]\nuri = 'x'\nwidths = [64, 64]", "widths must differ"),
        ("[index]\nuri = 'x'\nwidths = [100]\nvector_index = 'IVF_RQ'", "needs widths divisible by 8"),
        ("[corpus]\nuri = 'x'\npayload = ['vector']", "payload column 'vector'"),
        ("[model]\nname = 'x'\noverflow = 'cut'", r"model\.overflow"),
        ("[corpus\n", "are not TOML"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, addition: str, message: str) -> None:
    sections = {
        part.split("]")[0].strip(): part for part in ("corpus]\nuri='c'", "model]\nname='m'", "index]\nuri='i'")
    }
    given = addition.split("]", maxsplit=1)[0].strip("[ \n")
    rest = "".join(f"[{part}\n" for name, part in sections.items() if name != given)
    file = tmp_path / "job.toml"
    file.write_text(rest + addition, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        read(file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index.widht", "3"], r"unknown flag --index\.widht \(did you mean --index\.widths\?\)"),
        (["--plann"], "unknown flag --plann"),
        (["--engine.max_num_seqs"], "needs a value"),
        (["--engine.enforce_eager", "--plan"], r"--engine\.enforce_eager needs a value"),
        (["--engine.replicas_per_gpu", "0"], r"^engine\.replicas_per_gpu: Input should be greater"),
        (["--engine.slowest=abc"], r"^engine\.slowest: Input should be a valid number"),
    ],
)
def test_unknown_flags_are_refused(config: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read(config, *flags)


def test_unknown_variables_are_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEXER_INDEKS__NAME", "x")
    with pytest.raises(SettingsError, match=r"INDEXER_INDEKS__NAME.*did you mean index"):
        read(config)
    monkeypatch.delenv("INDEXER_INDEKS__NAME")
    monkeypatch.setenv("INDEXER_INDEX__NAMES", "x")
    with pytest.raises(SettingsError, match=r"unknown key index\.names \(did you mean name\?\)"):
        read(config)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read settings"):
        read(tmp_path / "none.toml")


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    with pytest.raises(SystemExit):
        read(config, "--help")
    text = capsys.readouterr().out
    for section, field in Settings.model_fields.items():
        for key in _model(field).model_fields:
            assert f"--{section}.{key}" in text
    assert "--engine.max_num_seqs" in text
