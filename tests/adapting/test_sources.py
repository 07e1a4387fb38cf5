"""Pairs from titles, judgements and a generator's answers, on real tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer

from indexer.adapting import sources
from indexer.adapting.sources import Texts
from indexer.adapting_settings import AdaptSettings, WrittenSettings
from indexer.errors import CorpusError
from indexer.evaluation import synthetic
from indexer.inference.sequences import TokenSequences
from indexer.search.published import Published, open_published
from indexer.settings import EngineSettings
from indexer.testing.checkpoints import qwen3_checkpoint
from tests.support import fakes
from tests.support.conventions import TINY

pytestmark = pytest.mark.heavy

COUNT = 20

VALUES = {"kind": ["question", "keyword"], "asker": ["a child", "a judge", "a pilot"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    rows = [(f"d{at}", f"This sentence is of number {at}. Six more words of number {at}.") for at in range(COUNT)]
    fakes.write(root / "corpus" / "a.parquet", rows)
    fakes.run_here(fakes.settings(root, corpus={"payload": ["text", "kind"]}))
    (root / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": f"q{at}", "text": f"query {at}"}) for at in range(4))
    )
    lines = ["query-id\tcorpus-id\tscore", "q0\td0\t2", "q0\td1\t0", "q1\td2\t1", "q2\tnowhere\t1", "q3\td3\t1"]
    (root / "qrels.tsv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def published(root: Path) -> Published:
    return open_published(str(root / "index"), "docs")


def settings(root: Path, **sections: Any) -> AdaptSettings:
    judged = {"queries": {"uri": str(root / "queries.jsonl")}, "judgements": {"uri": str(root / "qrels.tsv")}}
    return AdaptSettings(index={"uri": "x"}, output={"uri": "x"}, **judged | sections)


def test_titles_are_taken_out_of_their_documents(root: Path, published: Published) -> None:
    given = settings(root, titles={"query": "first_sentence"})
    found = sources.titled(given, Texts(published, "first_sentence"))
    assert len(found) == COUNT
    assert {pair.query for pair in found} == {f"This sentence is of number {at}." for at in range(COUNT)}
    assert all(pair.document == f"Six more words of number {pair.document_id[1:]}." for pair in found)


def test_judgements_keep_grades_and_what_the_index_lacks(root: Path, published: Published) -> None:
    found = sources.judged(settings(root), Texts(published, None))
    assert [(pair.query_id, pair.document_id, pair.grade) for pair in found] == [
        ("q0", "d0", 2), ("q0", "d1", 0), ("q1", "d2", 1), ("q2", "nowhere", 1), ("q3", "d3", 1),
    ]  # fmt: skip
    assert [pair.document for pair in found if pair.document_id == "nowhere"] == [""]
    assert {pair.split for pair in found} == {"train"}
    beside = sources.judged(settings(root, titles={}), Texts(published, None))
    assert {pair.split for pair in beside} == {"test"}, "beside another source they only judge"


def test_questions_have_the_judgements_and_the_texts_without_titles(root: Path, published: Published) -> None:
    given = settings(root, titles={"query": "first_sentence"})
    texts = Texts(published, "first_sentence")
    pairs = [*sources.judged(given, texts), *sources.titled(given, texts)]
    found = sources.questions(pairs, "test", published)
    assert found.judgements["q0"] == {"d0": 2, "d1": 0}
    assert found.altered == {}
    assert found.notes == {
        "judged documents that the index does not have": 1, "queries whose answers are all missing": 1
    }  # fmt: skip


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> synthetic.Writer:
    generator = qwen3_checkpoint(tmp_path_factory.mktemp("generator"), TINY, kind="reranker", dtype="float32")
    prompt = "Write one {kind} as {asker} would.\n\n{document}"
    given = WrittenSettings(
        name=generator, count=COUNT, prompt=prompt, values=VALUES, max_tokens=128, query_tokens=16, least_score=0.5
    )
    return synthetic.open_writer(given, EngineSettings())


def test_queries_are_written_under_prompts_of_drawn_values(published: Published, writer: synthetic.Writer) -> None:
    tokenizer = Tokenizer.from_file(f"{writer.checkpoint.path}/tokenizer.json")
    seen: list[str] = []

    def write(prompts: TokenSequences) -> list[list[int]]:
        seen.extend(tokenizer.decode(ids, skip_special_tokens=False) for ids in prompts.tolist())
        return [tokenizer.encode(f'"about {at}"' if at else "").ids for at in range(len(prompts))]

    def score(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:  # noqa: ARG001
        return np.array([0.9 if number % 4 else 0.1 for number in range(len(queries))], np.float32)

    found, notes = sources.written(Texts(published, None), writer, write, score)
    assert notes == {"written queries that are empty": 1, "written queries that the reranker finds unanswered": 4}
    assert len(found) == COUNT - 5
    for pair in found:
        at = int(pair.query.removeprefix("about "))
        prompt = seen[at]
        assert pair.drawn == sources.draw(VALUES, pair.document_id)
        assert f"Write one {pair.drawn['kind']} as {pair.drawn['asker']} would.\n\n{pair.document}" in prompt
        assert prompt.startswith("<|im_start|>user\n"), "in the generator's own chat template"
        assert pair.score == pytest.approx(0.9)
    assert {pair.drawn["kind"] for pair in found} == set(VALUES["kind"])
    assert {pair.drawn["asker"] for pair in found} == set(VALUES["asker"])


def test_no_query_that_is_answered_is_an_error(published: Published, writer: synthetic.Writer) -> None:
    def nothing(prompts: TokenSequences) -> list[list[int]]:
        return [[] for _ in range(len(prompts))]

    def zero(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:  # noqa: ARG001
        return np.zeros(len(queries), np.float32)

    with pytest.raises(CorpusError, match="no query is left of 20"):
        sources.written(Texts(published, None), writer, nothing, zero)


def test_a_prompt_with_a_name_that_has_no_values_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"the prompt has \{mood\}, for which values has no list"):
        WrittenSettings(name="x", prompt="Write in a {mood} mood.\n\n{document}")
