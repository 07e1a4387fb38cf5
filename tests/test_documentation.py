"""What the pages name exists: links, headings, commands, make targets, imports."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / name / "README.md" for name in ("benchmarks", "configs", "configs/kubernetes", "indexer", "jobs")),
    ]
)

FIRST_PAGE_BYTES = 9_000

OTHERS = {"pip", "venv", "pytest", "module"}
"""Modules after ``python -m`` that are not ours."""


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(_anchor, headings), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for line in re.findall(r"(?:`|\$ )make ([a-z -]+)", text) for name in line.split()[:1]}
    assert named <= targets
    for module in {name.rstrip(".") for name in re.findall(r"python -m ([\w.]+)", text)} - OTHERS:
        assert importlib.util.find_spec(module) is not None, module
    for config in re.findall(r"--config (configs/[\w.-]+)", text):
        assert (ROOT / config).is_file(), config


@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_that_is_shown_imports_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("indexer"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= FIRST_PAGE_BYTES
