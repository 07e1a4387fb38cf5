"""jobs.search with the fake engine: what it prints, what it takes from standard input, and what it refuses."""

import io
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.commands import search
from indexer.errors import SettingsError
from indexer.settings import Settings
from tests.support.fakes import WIDTHS, run_here, settings, words, write
from tests.support.readers import fake_readers, handle_sigint

TEXTS = [text for _, text in words(30)]

Call = Callable[..., str]


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """An index of 30 documents with their text and full-text search."""
    index = {"uri": str(tmp_path / "index"), "widths": WIDTHS, "text_search": ["text"]}
    given = settings(tmp_path, corpus={"payload": ["kind", "text"]}, index=index)
    write(tmp_path / "corpus" / "a.parquet", words(30))
    run_here(given)
    return given


@pytest.fixture
def call(given: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command with a file of nothing but [index]; gives its standard output."""
    file = tmp_path / "index.toml"
    file.write_text(f'[index]\nuri = "{given.index.uri}"\n', encoding="utf-8")

    def called(*arguments: str, typed: str = "", more: str = "", needed: int = 1, **faults: Any) -> str:
        """With more settings in a second file, and with as many engines as are needed."""
        second = tmp_path / "more.toml"
        second.write_text(more, encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["search", f"--config={file}", f"--config={second}", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        with fake_readers(**faults) as engines:
            search.main()
            assert [engine.is_closed for engine in engines] == [True] * needed
        return capsys.readouterr().out

    return called


def test_a_question_is_answered_with_the_chunks_text(call: Call) -> None:
    out = call(TEXTS[3], "--k", "2")
    first = out.splitlines()[2]
    assert first.startswith("  1. 1.000  doc-00003  kind=page")
    assert TEXTS[3] in out


def test_json_has_the_hits_text_and_not_the_document(call: Call) -> None:
    (answer,) = map(json.loads, call(TEXTS[3], "--json", "--k", "2").splitlines())
    assert (answer["epoch"], answer["width"], answer["mode"], len(answer["results"])) == (1, 384, "vector", 2)
    assert answer["results"][0]["text"] == TEXTS[3]
    assert answer["results"][0]["payload"] == {"kind": "page"}
    (answer,) = map(json.loads, call(TEXTS[3], "--json", "--whole-document").splitlines())
    assert answer["results"][0]["payload"] == {"kind": "page", "text": TEXTS[3]}


def test_widths_stand_side_by_side(call: Call) -> None:
    out = call(TEXTS[3], "--width", "384", "--width", "96", "--k", "3")
    head, first = out.splitlines()[2:4]
    assert head.index("vector 96") == first.rindex("1.000 doc-00003")
    assert first.count("doc-00003") == 2


def test_words_are_searched_without_an_engine(call: Call) -> None:
    answered = call("number 12 of seed", "--mode", "text", "--json", "--k", "2", needed=0)
    (answer,) = map(json.loads, answered.splitlines())
    assert answer["mode"] == "text"
    first = answer["results"][0]
    assert (first["id"], first["text_rank"], first["vector_rank"], first["vector_score"]) == (
        "doc-00012",
        1,
        None,
        None,
    )
    assert first["score"] == first["text_score"] > 0


def test_the_mode_is_a_setting_and_a_flag(call: Call) -> None:
    """The block of a recommendation, as a second file."""
    hybrid = '[search]\nmode = "hybrid"\nwidth = 96\noversample = 2\n'
    (answer,) = map(json.loads, call(TEXTS[3], "--json", more=hybrid).splitlines())
    assert (answer["mode"], answer["width"]) == ("hybrid", 96)
    first = answer["results"][0]
    assert (first["id"], first["vector_rank"], first["text_rank"]) == ("doc-00003", 1, 1)
    assert first["vector_score"] == pytest.approx(1, abs=1e-5)
    out = call(TEXTS[3], more=hybrid)
    assert "1. 0.033  doc-00003  (vector 1, text 1)  kind=page" in out
    out = call(TEXTS[3], "--mode", "vector", "--mode", "hybrid", "--mode", "text", "--k", "3", more=hybrid)
    assert "vector 96" in out.splitlines()[2]
    assert out.splitlines()[3].count("doc-00003") == 3
    (answer,) = map(
        json.loads, call(TEXTS[3], "--json", "--mode", "vector", "--width", "384", more=hybrid).splitlines()
    )
    assert (answer["mode"], answer["width"]) == ("vector", 384)


def test_questions_are_answered_one_after_another(call: Call, given: Settings, tmp_path: Path) -> None:
    out = call("--interactive", "--json", typed=f"{TEXTS[1]}\n\n  \n{TEXTS[2]}\n")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["results"][0]["id"] for answer in answers] == ["doc-00001", "doc-00002"]
    write(tmp_path / "corpus" / "a.parquet", words(31))
    run_here(given)
    (answer,) = map(json.loads, call(words(31)[30][1], "--json").splitlines())
    assert (answer["epoch"], answer["results"][0]["id"]) == (2, "doc-00030")


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_bytes_that_are_not_utf_8_cost_no_answer(call: Call, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Neither on the command line, where Python makes them lone surrogates, nor on standard input."""
    asked = TEXTS[1].encode() + b" \xff"
    (answer,) = map(json.loads, call(os.fsdecode(asked), "--json", "--mode", mode).splitlines())
    assert answer["results"]
    typed = io.TextIOWrapper(io.BytesIO(asked + b"\n" + TEXTS[2].encode()), encoding="utf-8")
    monkeypatch.setattr(io, "StringIO", lambda _: typed)
    first, second = map(json.loads, call("--interactive", "--json", "--mode", mode).splitlines())
    assert first["results"]
    assert second["results"][0]["id"] == "doc-00002"


def test_ctrl_c_ends_an_answer_and_not_the_command(call: Call) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    real = search._Asked._searched
    left = [True]

    def interrupted(*arguments: Any) -> Any:
        if left and left.pop():
            threading.Timer(0.2, interrupt).start()
            threading.Event().wait(30)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        handle_sigint()
        patch.setattr(search._Asked, "_searched", interrupted)
        out = call("--interactive", "--json", typed=f"{TEXTS[1]}\n{TEXTS[2]}\n")
    (answer,) = map(json.loads, out.splitlines())
    assert answer["results"][0]["id"] == "doc-00002"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ask a question, or use --interactive"),
        (["question", "--interactive"], "leave out those on the command line"),
        (["question", "--where", "kind = 'page'; DROP TABLE docs"], "not one condition"),
        (["question", "--where", "nothing = 1"], "No field named nothing"),
        (["question", "--where", "kind = 5 AND"], "the condition is refused"),
        (["question", "--width", "100"], "no table of width 100"),
        (["question", "--candidates", "9"], "--candidates is read with --rerank or [reranker] only"),
        (["question", "--whole-document"], "--whole-document is read with --json only"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_an_engine_starts(
    call: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("indexer.search.published.Published.start", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(SettingsError) as refused:
        call(*arguments)
    assert message in str(refused.value)
    assert ".rs" not in str(refused.value)
