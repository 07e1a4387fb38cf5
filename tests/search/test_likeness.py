"""Documents found by words are shown at the chunk with these words, however the index cuts and folds them."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.search.likeness import likeness, words_of
from indexer.search.published import Published, open_published
from tests.support import fakes

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A Chinese and an English document, each of several chunks; what is asked for stands in the last one."""
    root = tmp_path_factory.mktemp("likeness")
    chinese = "".join(f"第{row}页没有什么重要的内容。" for row in range(60)) + "最后我们讨论量子计算机的原理。"
    english = " ".join(f"sentence {row} says little." for row in range(60))
    texts = [chinese, f"{english} At last the runners were running to the café.", "天气很好。", "the weather"]
    (root / "corpus").mkdir()
    pq.write_table(pa.table({"id": ["zh", "en", "a", "b"], "text": texts}), root / "corpus" / "a.parquet")
    given = fakes.settings(
        root,
        corpus={"payload": ["text"]},
        model={"overflow": "chunk", "max_tokens": 64, "chunk_overlap": 8},
        index={"widths": [384], "text_search": ["text"], "text": {"tokenizer": "icu"}},
    )
    fakes.run_here(given)
    with open_published(given.index.uri, given.index.name) as opened:
        yield opened


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("量子计算机", "量子计算机"),
        ("running", "running"),
        ("run", "running"),
        ("Runner", "runners"),
        ("cafe", "café"),
    ],
)
def test_the_chunk_with_the_words_is_shown(published: Published, question: str, words: str) -> None:
    (hits,) = published.search([question], mode="text", k=1)
    assert [words in hit.text(["text"]) for hit in hits] == [True]
    assert hits[0].chunk > 0


@pytest.mark.parametrize(
    ("question", "better", "worse"),
    [
        ("red apple", "a red apple", "a red pear"),
        ("red apple", "a red pear", "redder apples"),
        ("apples", "an apple", "an appendix"),
        ("計算機", "量子計算機", "計算"),
        ("é", "e", "ee"),
    ],
)
def test_whole_words_count_before_parts_of_words(question: str, better: str, worse: str) -> None:
    wanted = words_of(question)
    assert likeness(wanted, better) > likeness(wanted, worse)
