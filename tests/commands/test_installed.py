"""What ``pip install .`` gives a user: the package, one command, nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
    return subprocess.run(
        [sys.executable, str(site / "bin" / "qwen3-index"), *arguments],
        cwd=site.parent, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_only_the_package_and_its_command_are_installed(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"indexer", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["qwen3-index"]
    assert (site / "indexer" / "py.typed").is_file()
    installed = {path.relative_to(site) for path in (site / "indexer").rglob("*.py")}
    assert installed == {path.relative_to(ROOT) for path in (ROOT / "indexer").rglob("*.py")}


def test_the_command_tells_its_version_and_commands(site: Path) -> None:
    version, usage = command(site, "--version"), command(site, "--help")
    assert (version.returncode, version.stdout) == (0, f"qwen3-index {indexer.__version__}\n")
    assert usage.returncode == 0
    assert all(f"\n  {name} " in usage.stdout for name in COMMANDS)


def test_a_mistyped_command_is_one_line_and_status_2(site: Path) -> None:
    done = command(site, "indx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown command indx (did you mean index?)")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts(site: Path, name: str) -> None:
    shown = command(site, name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: qwen3-index {name} ")
    missing = command(site, name, "--config", "none.toml", *{"search": ["question"], "epochs": ["list"]}.get(name, []))
    assert (missing.returncode, missing.stderr) == (
        2,
        "error: cannot read settings none.toml: No such file or directory\n",
    )


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
    rest = {"search": ["question"], "epochs": ["list"]}.get(command, [])
    arguments = [sys.executable, "-c", script, "--config", f"configs/{config}.toml", *rest]
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
