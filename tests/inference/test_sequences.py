"""Flat token ids behave like the lists they stand for, and fastokens gives the ids of tokenizers."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import fallbacks
from indexer.inference import fast_tokenizer as module
from indexer.inference.fast_tokenizer import HOSTILE, FastTokenizer, fast_tokenizer, reference_ids
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import TextEncoder, text_encoder

ROWS = st.lists(st.lists(st.integers(0, 1000), max_size=5), max_size=8)


@given(rows=ROWS, data=st.data())
def test_sequences_are_like_lists(rows: list[list[int]], data: st.DataObject) -> None:
    """Property: rows, slices, choices, joins and frames."""
    found = TokenSequences.of(rows)
    assert found.tolist() == rows
    assert (len(found), found.tokens) == (len(rows), sum(map(len, rows)))
    assert [row.dtype for row in found] == [np.int32] * len(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1)) if rows else st.just([]))
    assert found.take(chosen).tolist() == [rows[row] for row in chosen]
    assert found.take(np.array([bool(row) for row in rows], bool)).tolist() == [row for row in rows if row]
    assert found[1:3].tolist() == rows[1:3]
    assert TokenSequences.join([found, found]).tolist() == rows + rows
    assert found.framed([7], [8, 9]).tolist() == [[7, *row, 8, 9] for row in rows]
    assert found.framed([], []).tolist() == rows


@pytest.fixture(scope="module")
def encoder(qwen_tokenizer_path: str) -> TextEncoder:
    return text_encoder(qwen_tokenizer_path)


def test_qwen_is_tokenised_by_fastokens(encoder: TextEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(fast_tokenizer(encoder.text, encoder.plain), FastTokenizer)
    assert not capsys.readouterr().err


def test_other_tokenizers_keep_the_reference_and_say_so_once(
    minilm_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fastokens does not know BERT's normaliser."""
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(fallbacks, "_taken", {})
    encoder = text_encoder(minilm_path)
    assert encoder.encode(["a", "b"]).tolist() == [[1037], [1038]]
    assert encoder.encode(["c"]).tolist() == [[1039]]
    assert capsys.readouterr().err.count("texts are tokenised by tokenizers") == 1


def test_a_difference_on_the_hostile_texts_is_seen(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = FastTokenizer.encode

    def otherwise(self: FastTokenizer, texts: list[str]) -> TokenSequences:
        found = real(self, texts)
        return TokenSequences(np.append(found.ids[:-1], found.ids[-1] + 1).astype(np.int32), found.lengths)

    monkeypatch.setattr(FastTokenizer, "encode", otherwise)
    monkeypatch.setattr(module, "_known", {})
    assert fast_tokenizer(encoder.text, encoder.plain) is None
    assert f"other ids for 1 of {len(HOSTILE)} texts" in capsys.readouterr().err


PIECES = (
    "a Z word The 's 'RE n't don\u2019t 1 12 3.14 \u0663 \u00bd _ -- !? ... http:// C++ {} [ ] (x) #tag @me "
    "<|endoftext|> <think> caf\u00e9 e\u0301 \u0308 \ufb01 \u0130 \u00df \u03c3\u03a3\u03c2 \u0394 \u0416\u0443\u043a "
    "\u05e9\u05dc\u05d5\u05dd \u0633\u0644\u0627\u0645 \u0640 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 "
    "\u6f22\u5b57 \u304b\u3099 \u30ab \ud55c \u1112\u1161\u11ab \uff0c \u3002 \U0001f642 \U0001f469\u200d\U0001f469 "
    "\u2764\ufe0f \ufeff \u200b \U00020000"
).split(" ")
BATCH = 2_000

GAPS = ["", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "-", "\n\n "]
POINTS = [point for point in range(1, 0x3100) if not 0xD800 <= point < 0xE000] + [*range(0x1F300, 0x1F700)]


@pytest.mark.parametrize("count", [50_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_fastokens_gives_the_references_ids(count: int, encoder: TextEncoder) -> None:
    """Pieces of many scripts and any characters, joined in every way."""
    fast = fast_tokenizer(encoder.text, encoder.plain)
    assert fast is not None
    drawn = random.Random(0)
    for _ in range(0, count, BATCH):
        texts = [_text(drawn) for _ in range(BATCH)]
        expected, found = reference_ids(encoder.plain, texts), fast.encode(texts)
        assert np.array_equal(found.lengths, expected.lengths)
        assert np.array_equal(found.ids, expected.ids)


def _text(drawn: random.Random) -> str:
    parts = drawn.choices(PIECES, k=drawn.randint(1, 8))
    if drawn.random() < 0.3:
        parts.append("".join(map(chr, drawn.choices(POINTS, k=drawn.randint(1, 12)))))
    return drawn.choice(GAPS).join(parts) + drawn.choice(GAPS)
