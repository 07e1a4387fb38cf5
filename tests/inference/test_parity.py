"""Vectors equal those of the model cards' own code: Transformers and sentence-transformers."""

import functools
import gc
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest

from indexer.inference import matryoshka
from indexer.inference.embed_inputs import EmbedTokenizer
from indexer.inference.engine import Engine
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.pair_inputs import PairTokenizer
from indexer.testing import checkpoints, corpora, random_weights
from tests.support.checkpoints import (
    FAST_DTYPE,
    HAS_BFLOAT16,
    NO,
    YES,
    converted_reranker,
    cross_encoder,
    needs_bfloat16,
)

OTHER_DTYPE = pytest.param(
    *({"bfloat16", "float32"} - {FAST_DTYPE}), marks=[pytest.mark.slow, *([] if HAS_BFLOAT16 else [needs_bfloat16])]
)
"""The one of both dtypes that is not this machine's faster one."""

LONGEST = 24
"""How often samples are repeated, and twice the words of the longest plain text; with 16 some texts are the same."""

MAX_TOKENS = 48
"""Most ids of a text; a fifth of such texts have more."""

SOME = 3
"""Every third pair, so all queries and all documents: every second or fourth would leave out the same documents."""

MAX_PAIR_TOKENS = 160
"""Most ids of a pair; two thirds of the pairs have more."""

EAGER = {"enforce_eager": True}

LEAST_COSINE = {"bfloat16": 0.9995, "float32": 0.99999}

SAMPLES = (
    "The quick brown fox jumps over the lazy dog, and nobody minds.",
    "今天天气很好，我们去公园散步。你想一起来吗？他说：“当然！”",
    "السلام عليكم ورحمة الله، كيف حالك اليوم؟ أتمنى لك يومًا سعيدًا.",
    "🙂🚀👩‍👩‍👧‍👦 family 🏳️‍🌈 flags 🇩🇪🇯🇵 and keycaps 1️⃣2️⃣",
    "def f(x: int) -> int:\n    return {'a': x ** 2, \"b\": [i for i in range(x)]}  # <b>\n\n\n",
    "a\tb\x00c\x01\x1b[31mred\x1b[0m\r\nline\u2028separator\ufeff\u200bzero\u00adwidth",
    "Ångström café naïve e\u0301 o\u0308 \u1e9b\u0323 ﬁ ½ Ⅷ 한국어 日本語 ไทย हिन्दी русский עברית",
    "3.14159265358979 1234567890 0x7fffffff 1e-10 2024-02-29T23:59:60Z",
    "   leading and trailing   spaces \n\n \t ",
    "!!!???...---===~~~^^^```\"\"\"'''(((([[[[{{{{<<<<",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.org/a/b?c=d&e=%20f#g SELECT * FROM t WHERE x = 'it''s';",
)


def varied_texts(longest: int) -> list[str]:
    """216 texts: every sample alone, cut short, and repeated to ``longest`` words and more; plain words between."""
    parts = [sample[:length] for sample in SAMPLES for length in (1, 2, 3, 5, 8, 13, 21, 34)]
    repeated = [(sample + " ") * times for sample in SAMPLES for times in (1, 2, longest // 8, longest)]
    return [*parts, *repeated, *corpora.random_texts(72, words=(1, longest // 2), seed=5)]


def engine_vectors(path: str, texts: list[str], max_tokens: int, dtype: str) -> np.ndarray:
    """Vectors as the indexer gets them; without compilation, which takes longer than all of the texts."""
    gc.collect()  # the engine before this one
    tokenizer = EmbedTokenizer(path, max_tokens)
    batch = tokenizer.documents(texts)
    assert not batch.rejected
    assert batch.truncated.any()
    engine = Engine(EngineSpec(path, dtype, max_tokens, EAGER), tokenizer.queries(["one", "another"]))
    assert engine.way_back is None
    return engine.embed(batch.ids)


def transformers_vectors(path: str, texts: list[str], max_tokens: int, dtype: str) -> np.ndarray:
    """Qwen3-Embedding's model card: left padding, hidden state of the last token, unit norm."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModel.from_pretrained(path, dtype=getattr(torch, dtype))
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), 8):
        rows = order[start : start + 8]
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        with torch.no_grad():
            last = model(**batch).last_hidden_state[:, -1]
        vectors[rows] = torch.nn.functional.normalize(last.float(), p=2, dim=1).numpy()
    return vectors


def varied_pairs() -> list[tuple[str, str]]:
    """300 pairs: short, long, beyond the limit, empty documents, quotes and newlines, several languages."""
    queries = [*SAMPLES, 'what does "quoted"\n\tmean?', "q", "как это работает?"]
    documents = [
        "",
        *SAMPLES,
        *corpora.random_texts(4, words=(20, 60), seed=3),
        *corpora.random_texts(3, words=(200, 300)),
    ]
    return [(query, document) for query in queries for document in documents]


def engine_scores(path: str, pairs: list[tuple[str, str]], max_tokens: int, dtype: str) -> np.ndarray:
    """Scores as the scoring job gets them, those of one query together."""
    gc.collect()
    tokenizer = PairTokenizer(path, max_tokens)
    batch = tokenizer.pairs(*zip(*pairs, strict=True))
    assert batch.truncated.any()
    second = None if batch.second is None else batch.second[:2]
    engine = Engine(EngineSpec(path, dtype, max_tokens, EAGER), batch.ids[:2], mode="score", canary_second=second)
    assert engine.way_back is None
    return engine.score(batch.ids, batch.second)


def transformers_scores(path: str, pairs: list[tuple[str, str]], max_tokens: int, dtype: str) -> np.ndarray:
    """Qwen3-Reranker's model card: the logits of "yes" and "no" at the last position of the causal model."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = PairTokenizer(path, max_tokens).pairs(*zip(*pairs, strict=True)).ids.tolist()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    scores = np.empty(len(ids), np.float32)
    for start in range(0, len(order), 10):
        rows = order[start : start + 10]
        longest = max(len(ids[row]) for row in rows)
        padded = torch.tensor([[0] * (longest - len(ids[row])) + ids[row] for row in rows])
        mask = torch.tensor([[0] * (longest - len(ids[row])) + [1] * len(ids[row]) for row in rows])
        with torch.no_grad():
            logits = model(input_ids=padded, attention_mask=mask, logits_to_keep=1).logits[:, -1, [NO, YES]]
        scores[rows] = torch.softmax(logits.float(), dim=1)[:, 1].numpy()
    return scores


def cross_encoder_scores(path: str, pairs: list[tuple[str, str]], max_tokens: int) -> np.ndarray:
    """A cross-encoder as sentence-transformers runs it."""
    from sentence_transformers import CrossEncoder

    return np.asarray(CrossEncoder(path, max_length=max_tokens, device="cpu").predict(pairs), np.float32)


def sentence_vectors(path: str, texts: list[str], max_tokens: int) -> np.ndarray:
    """all-MiniLM-L6-v2 as sentence-transformers runs it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    model.max_seq_length = max_tokens
    return np.asarray(model.encode(texts, normalize_embeddings=True), np.float32)


@pytest.fixture(
    scope="module",
    params=list(random_weights.TRUE_SHAPES),
)
def true_shape_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A 2-layer checkpoint with the dimensions of one of the hub's models; 0.4 to 2 GB while it is read."""
    path = tmp_path_factory.mktemp("shape")
    yield checkpoints.qwen3_checkpoint(path, random_weights.TRUE_SHAPES[request.param])
    shutil.rmtree(path)


def assert_parity(vectors: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """Same direction, row by row, among vectors that differ from each other."""
    cosines = (vectors * expected).sum(axis=1)
    assert len(cosines) >= 200
    assert cosines.min() >= LEAST_COSINE[dtype]
    others = expected @ np.roll(expected, 1, axis=0).T
    assert np.median(others) < 0.6, "a checkpoint that gives much the same vector for every text shows nothing"


@pytest.mark.parametrize("dtype", [FAST_DTYPE, OTHER_DTYPE])
def test_four_layers(dtype: str, qwen_path: str, engine_process: Executor, reference_process: Executor) -> None:
    """Texts from one token to beyond the limit, and every narrow vector is the prefix of the full one."""
    case = qwen_path, varied_texts(LONGEST), MAX_TOKENS, dtype
    vectors = engine_process.submit(engine_vectors, *case).result()
    assert_parity(vectors, reference_process.submit(transformers_vectors, *case).result(), dtype)
    for width in (32, 64, 128, 256):
        prefix = vectors[:, :width].astype(np.float64)
        exact = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
        np.testing.assert_allclose(matryoshka.cut(vectors, width), exact, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [FAST_DTYPE, OTHER_DTYPE])
def test_true_shapes(dtype: str, true_shape_path: str, engine_process: Executor, reference_process: Executor) -> None:
    """The dimensions and head counts of 0.6B, 4B and 8B, on shorter texts."""
    case = true_shape_path, varied_texts(16), 24, dtype
    vectors = engine_process.submit(engine_vectors, *case).result()
    assert_parity(vectors, reference_process.submit(transformers_vectors, *case).result(), dtype)


Scored = Callable[[int, str], np.ndarray]
"""Gives the reranker's scores of every so many pairs in a dtype."""


@pytest.fixture(scope="module")
def scored(reranker_path: str, engine_process: Executor) -> Scored:
    """One engine for each dtype and choice of pairs, whichever test asks first."""

    @functools.cache
    def scores(every: int, dtype: str) -> np.ndarray:
        case = reranker_path, varied_pairs()[::every], MAX_PAIR_TOKENS, dtype
        return engine_process.submit(engine_scores, *case).result()

    return scores


@pytest.mark.parametrize("every", [SOME, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=needs_bfloat16), "float32"])
def test_reranker(every: int, dtype: str, scored: Scored, reranker_path: str, reference_process: Executor) -> None:
    """Probabilities of the causal model, and the same ranking where they differ by more than rounding."""
    tolerance = {"bfloat16": 5e-3, "float32": 1e-5}[dtype]
    scores, case = scored(every, dtype), (reranker_path, varied_pairs()[::every], MAX_PAIR_TOKENS, dtype)
    expected = reference_process.submit(transformers_scores, *case).result()
    assert len(scores) == 300 // every
    assert np.ptp(expected) > 0.05
    assert np.abs(scores - expected).max() <= tolerance
    ranked = scores[np.argsort(expected)]
    assert (np.maximum.accumulate(ranked) - ranked).max() <= 2 * tolerance


def test_converted_reranker(scored: Scored, reranker_path: str, engine_process: Executor, tmp_path: Path) -> None:
    """A conversion to a classifier with one label gives the scores of the causal model."""
    pairs = varied_pairs()[::SOME][::2]
    converted = converted_reranker(reranker_path, tmp_path / "converted")
    scores = engine_process.submit(engine_scores, converted, pairs, MAX_PAIR_TOKENS, "float32").result()
    # The conversion's row is rounded to bfloat16 once more.
    assert np.abs(scores - scored(SOME, "float32")[::2]).max() <= 2e-3


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_cross_encoder(
    activation: str | None, engine_process: Executor, reference_process: Executor, tmp_path: Path
) -> None:
    """BERT's token types and template; with an activation that leaves the logit as it is, logits."""
    path = reference_process.submit(cross_encoder, tmp_path, activation).result()
    short = [(query[:60], document[:60]) for query, document in varied_pairs()[::3] if document]
    pairs = [*short, ("long", "word " * 100)]  # of two long sides the reference would cut the query too
    scores = engine_process.submit(engine_scores, path, pairs, 96, "float32").result()
    expected = reference_process.submit(cross_encoder_scores, path, pairs, 96).result()
    assert np.ptp(expected) > 0.05
    assert np.abs(scores - expected).max() <= 1e-4


def test_minilm(minilm_path: str, engine_process: Executor, reference_process: Executor) -> None:
    """Mean pooling and BERT's own special tokens."""
    texts = [text for text in varied_texts(LONGEST) if text.strip().strip("\x00\x01\ufeff\u200b")]
    vectors = engine_process.submit(engine_vectors, minilm_path, texts, MAX_TOKENS, "float32").result()
    expected = reference_process.submit(sentence_vectors, minilm_path, texts, MAX_TOKENS).result()
    assert_parity(vectors, expected, "float32")
