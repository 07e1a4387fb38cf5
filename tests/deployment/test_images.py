"""The Dockerfiles, as far as they can be checked without building them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILES = sorted((ROOT / "configs" / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_in_the_context(path: Path) -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    ]
    sources = [
        word
        for name, rest in instructions(path)
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    assert f"requirements-{path.stem}.lock" in sources
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in allowed, source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compiled_models_lie_beside_the_weights(path: Path) -> None:
    """One volume keeps both from one container to the next."""
    settings = dict(pair.split("=", 1) for name, rest in instructions(path) if name == "ENV" for pair in rest.split())
    assert settings["VLLM_CACHE_ROOT"] == f"{settings['HF_HOME']}/vllm"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nobody_is_root_and_downloads_are_cached(path: Path) -> None:
    found = instructions(path)
    assert [rest for name, rest in found if name == "USER"] == ["1000:1000"]
    last = max(at for at, (name, _) in enumerate(found) if name == "FROM")
    user = next(at for at, (name, _) in enumerate(found) if name == "USER")
    assert user > last, "the final stage's"
    assert not [name for name, _ in found[user:] if name in {"COPY", "RUN"}], "nothing is written by that user"
    for name, rest in found:
        if name == "RUN" and re.search(r"install\.sh|pip install|apt-get", rest):
            assert rest.startswith("--mount=type=cache,"), rest


def test_the_package_needs_every_template_it_reads() -> None:
    """`pip install` copies what pyproject.toml names as package data."""
    named = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert list((ROOT / "indexer").glob("reporting/templates/*.html"))
    assert {path.parent.name for path in (ROOT / "indexer").rglob("*.html")} == {"templates"}
    assert '"reporting/templates/*.html"' in named
