"""What ``pip install .`` gives a user: the package, one command, nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import indexer
from indexer.commands.main import COMMANDS
from indexer.errors import missing_package

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]

DISTRIBUTION = ("indexer", "jobs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip installed a copy of this tree; without an index, so that nothing is fetched."""
    tree, site = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("site")
    for name in DISTRIBUTION:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "."], cwd=tree, check=True)
    return site


def command(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``qwen3-index`` in a folder that is no checkout."""
    return installed(site, str(site / "bin" / "qwen3-index"), *arguments)


def installed(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the installed copy, likewise."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=site.parent, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_only_the_package_and_its_command_are_installed(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"indexer", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["qwen3-index"]
    assert (site / "indexer" / "py.typed").is_file()
    modules = {path.relative_to(site) for path in (site / "indexer").rglob("*.py")}
    assert modules == {path.relative_to(ROOT) for path in (ROOT / "indexer").rglob("*.py")}


def test_the_command_tells_its_version_and_commands(site: Path) -> None:
    version, usage = command(site, "--version"), command(site, "--help")
    assert (version.returncode, version.stdout) == (0, f"qwen3-index {indexer.__version__}\n")
    assert usage.returncode == 0
    assert all(f"\n  {name} " in usage.stdout for name in COMMANDS)


def test_a_mistyped_command_is_one_line_and_status_2(site: Path) -> None:
    done = command(site, "indx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown command indx (did you mean index?)")


REST = {"search": ["question"], "epochs": ["list"]}
"""What commands need beside a configuration."""

UNREADABLE = "error: cannot read settings none.toml: No such file or directory\n"

STARTS = """
import contextlib, importlib, io, json, sys, traceback

def started(*arguments):
    for name in [name for name in sys.modules if name.partition(".")[0] == "indexer"]:
        del sys.modules[name]
    sys.argv = ["qwen3-index", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module("indexer.commands.main").run()
        except SystemExit as ended:
            return [ended.code, out.getvalue(), err.getvalue(), sys.modules["indexer"].__file__]
        except Exception:
            return [1, out.getvalue(), traceback.format_exc(), ""]

print(json.dumps([started(*arguments) for arguments in json.loads(sys.argv[1])]))
"""
"""Starts commands one after another, each with modules of its own; packages are imported once for all, in seconds."""


@pytest.fixture(scope="module")
def starts(site: Path) -> dict[str, list[list[Any]]]:
    """Status, output, errors and package of every command with ``--help`` and with settings that are not there."""
    asked = [
        [name, *flags] for name in COMMANDS for flags in (["--help"], ["--config", "none.toml", *REST.get(name, [])])
    ]
    done = installed(site, "-c", STARTS, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: found[2 * at : 2 * at + 2] for at, name in enumerate(COMMANDS)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts(name: str, site: Path, starts: dict[str, list[list[Any]]]) -> None:
    (status, shown, errors, package), missing = starts[name]
    assert (status, package) == (0, str(site / "indexer" / "__init__.py")), errors
    assert shown.startswith(f"usage: qwen3-index {name} ")
    assert [missing[0], missing[2]] == [2, UNREADABLE]


def test_the_installed_script_starts_a_command(site: Path) -> None:
    shown, missing = command(site, "index", "--help"), command(site, "index", "--config", "none.toml")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: qwen3-index index ")
    assert (missing.returncode, missing.stderr) == (2, UNREADABLE)


MISSING = [
    *((name, "index") for name in ("pydantic", "lance", "ray")),
    ("pydantic_settings", "score"),
    ("numpy", "search"),
    ("obstore", "epochs"),
    ("ir_measures", "evaluate"),
    ("sentence_transformers", "adapt"),
]


@pytest.mark.parametrize(("package", "command"), MISSING)
def test_a_package_that_is_not_installed_is_one_line_with_what_to_install(package: str, command: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\nfrom indexer.commands.entry import start\nstart({command!r})"
    )
    config = f"{command}-quickstart" if command in {"adapt", "evaluate"} else "quickstart"
    arguments = [sys.executable, "-c", script, "--config", f"configs/{config}.toml", *REST.get(command, [])]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    extra = "make dev" if command in {"adapt", "evaluate"} else "make install"
    name = f"the package {DISTRIBUTIONS.get(package, package)}"
    what = {"adapt": "the extra adapt", "evaluate": "the extra evaluate"}.get(command, name)
    said = f"{package} is not installed for {sys.executable}; run `{extra}` and use .venv, or install {what}"
    assert (done.returncode, done.stderr) == (1, f"error: {said}\n")
    if command == "index":
        last = json.loads(done.stdout.splitlines()[-1])
        assert (last["status"], last["error"]) == ("failed", said)


def test_a_package_that_cannot_be_loaded_is_named_and_a_module_of_ours_is_a_fault() -> None:
    broken = ImportError("libcudart.so.13: cannot open shared object file", name="torch._C")
    assert re.match(
        r"torch cannot be loaded \(libcudart.*\) for .*; run `make install` and use \.venv, or install the extra cpu",
        str(missing_package(broken)),
    )
    assert missing_package(ModuleNotFoundError("No module named 'indexer.x'", name="indexer.x")) is None


DISTRIBUTIONS = {"lance": "pylance", "pydantic_settings": "pydantic-settings"}


def test_the_face_is_lazy_and_complete() -> None:
    script = (
        "import sys, indexer\n"
        "assert not {'lance', 'lancedb', 'numpy', 'pyarrow', 'ray', 'vllm'} & set(sys.modules), sorted(sys.modules)\n"
        "from indexer import Hit, Published, open_published\n"
        "from indexer.search import hits, published\n"
        "assert (Hit, Published, open_published) == (hits.Hit, published.Published, published.open_published)\n"
        "from indexer import judgements\n"
        "from indexer.evaluation import judgements as home\n"
        "assert judgements is home\n"
        "assert not {'ray', 'torch', 'vllm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert set(indexer.__all__) <= set(dir(indexer))
    with pytest.raises(AttributeError, match="no attribute 'open_publishd'"):
        indexer.open_publishd  # noqa: B018
