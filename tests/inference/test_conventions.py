"""Checkpoints are used as they say themselves, or refused by name for what vLLM leaves out."""

import gc
import hashlib
import json
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.errors import SettingsError
from indexer.inference import conventions
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.settings import EngineSettings, ModelSettings
from tests.support.conventions import MADE, QWEN3_PROMPTS, bert, qwen3, sentence_transformer

LEAST_COSINE = 0.99999

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and nobody minds.",
    "今天天气很好，我们去公园散步。",
    "السلام عليكم ورحمة الله",
    "def f(x: int) -> int:\n    return {'a': x ** 2}  # <b>\n",
    "Ångström café naïve ﬁ ½ русский",
    "  spaces  around ",
    "word " * 60,
    "x",
]


def model(path: str, **settings: Any) -> Model:
    return open_model(ModelSettings(name=path, dtype="float32", **settings), EngineSettings(enforce_eager=True))


PROMPTS = "config_sentence_transformers.json"
"""The file of a checkpoint that the tokenizer reads and no engine."""

running: list[tuple[Any, Embedder]] = []
"""The engine of this process, and what it was started with."""


def engine_of(opened: Model) -> Embedder:
    """An engine of a model: the one before this where they differ by their prompts alone."""
    files = sorted(file for file in Path(opened.checkpoint.path).rglob("*") if file.is_file() and file.name != PROMPTS)
    digests = [(file.name, hashlib.sha256(file.read_bytes()).digest()) for file in files]
    wanted = digests, replace(opened.spec, path="")
    if not running or running[0][0] != wanted:
        running.clear()
        gc.collect()
        running.append((wanted, opened.engine()))
    return running[0][1]


def engine_vectors(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the texts as queries and as documents."""
    opened = model(path)
    engine = engine_of(opened)
    documents = opened.tokenizer.documents(TEXTS)
    assert not documents.rejected
    assert engine.dimension == opened.checkpoint.dimension
    return engine.embed(opened.tokenizer.queries(TEXTS)), engine.embed(documents.ids)


def reference_vectors(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Likewise by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": "float32"})
    return (
        np.asarray(loaded.encode_query(TEXTS, normalize_embeddings=True)),
        np.asarray(loaded.encode_document(TEXTS, normalize_embeddings=True)),
    )


@pytest.mark.parametrize("name", MADE)
def test_vectors_are_those_of_sentence_transformers(
    name: str, engine_process: Executor, reference_process: Executor, tmp_path: Path
) -> None:
    path = MADE[name](tmp_path / "model")
    found = engine_process.submit(engine_vectors, path).result()
    expected = reference_process.submit(reference_vectors, path).result()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours * theirs).sum(axis=1).min() >= LEAST_COSINE
    if "prompts" in name and "own" not in name:
        assert (found[0] * found[1]).sum(axis=1).max() < 0.9999, "queries and documents differ by their prompts"


def test_prompts_of_the_settings_go_before_the_checkpoints(tmp_path: Path) -> None:
    path = qwen3(tmp_path, {"query": "search_query: ", "document": "search_document: "})
    own, plain = model(path), model(path, query_prompt="", document_prompt="")
    assert plain.tokenizer.queries(["a"]) == plain.tokenizer.documents(["a"]).ids
    assert own.tokenizer.queries(["a"]) == plain.tokenizer.queries(["search_query: a"])
    assert own.tokenizer.documents(["a"]).ids == plain.tokenizer.documents(["search_document: a"]).ids
    task = model(path, query_prompt="Instruct: Find {it}\nQuery:")
    assert task.tokenizer.queries(["{a}"]) == plain.tokenizer.queries(["Instruct: Find {it}\nQuery:{a}"])
    assert len({one.fingerprint_digest for one in (own, plain, task)}) == 3
    assert (own.fingerprint["document_prompt"], "document_prompt" in plain.fingerprint) == ("search_document: ", False)


def test_qwen3s_own_prompt_is_the_template_with_the_instruction(tmp_path: Path) -> None:
    """And leaves the fingerprint what it is without the file."""
    path = qwen3(tmp_path, QWEN3_PROMPTS)
    named = model(path)
    (tmp_path / "config_sentence_transformers.json").unlink()
    assert model(path).fingerprint == named.fingerprint
    assert named.tokenizer.queries(["a"]) == model(path).tokenizer.queries(["a"])
    other = model(path, query_instruction="Find it")
    assert other.fingerprint == named.fingerprint
    assert other.tokenizer.queries(["a"]) == named.tokenizer.queries(["a"], ["Find it"])


@pytest.mark.heavy
def test_ends_of_chunks_are_counted_without_the_prompt(tmp_path: Path) -> None:
    path = bert(tmp_path, "mean_tokens", {"query": "", "document": "passage: "})
    text = " ".join(f"word{at}." for at in range(40))
    tokenizer = model(path, max_tokens=24, overflow="chunk", chunk_overlap=4).tokenizer
    batch = tokenizer.documents(["short", text, "\u200b\u200b"])
    assert [row for row, _ in batch.rejected] == [2]
    assert (batch.char_start[0], batch.char_end[0], batch.char_end[-1]) == (0, 5, len(text))
    assert max(map(len, batch.ids)) <= 24
    assert not batch.truncated.any()
    for at in range(1, len(batch.ids)):
        part = text[batch.char_start[at] : batch.char_end[at]]
        assert tokenizer.documents([part]).ids == batch.ids[at : at + 1]
    cut = model(path, max_tokens=8).tokenizer.documents(["hello " * 20])
    assert (cut.char_end[0], cut.truncated[0]) == (len("hello hello hello hello"), True)


def test_length_and_lower_case_are_read(tmp_path: Path) -> None:
    path = qwen3(tmp_path, QWEN3_PROMPTS)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": True}))
    opened = model(path)
    assert opened.max_tokens == opened.spec.max_tokens == 40
    assert opened.describe()["max_tokens"] == 40
    assert opened.tokenizer.documents(["ABC Ä"]).ids == opened.tokenizer.documents(["abc ä"]).ids
    assert len(opened.tokenizer.documents(["a " * 99]).ids[0]) == 40
    with pytest.raises(SettingsError, match=r"model\.max_tokens: 64 is above the checkpoint's max_seq_length 40"):
        _ = model(path, max_tokens=64).max_tokens
    assert model(path, max_tokens=32).max_tokens == 32


def _pooling(path: Path, **config: Any) -> None:
    (path / "1_Pooling" / "config.json").write_text(json.dumps(config))


def _modules(path: Path, *types: str) -> None:
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_x" if at else "", "type": kind} for at, kind in enumerate(types)
    ]
    (path / "modules.json").write_text(json.dumps(modules))


TRANSFORMER, POOLING, DENSE, NORMALIZE = (
    f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
)


@pytest.mark.parametrize(
    ("types", "named"),
    [
        ([TRANSFORMER, POOLING, "sentence_transformers.models.LSTM"], r"module sentence_transformers\.models\.LSTM"),
        ([TRANSFORMER, POOLING, "custom_st.Whitening"], r"module custom_st\.Whitening"),
        ([TRANSFORMER, NORMALIZE], "the modules Transformer > Normalize in this order"),
        ([TRANSFORMER, POOLING, NORMALIZE, DENSE], "Normalize > Dense in this order"),
    ],
)
def test_modules_that_vllm_leaves_out_are_refused_by_name(types: list[str], named: str, tmp_path: Path) -> None:
    sentence_transformer(tmp_path, "mean_tokens")
    _modules(tmp_path, *types)
    with pytest.raises(SettingsError, match=f"the checkpoint wants .*{named}; vLLM leaves that out"):
        conventions.read(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "pooling cls and mean"),
        ({"pooling_mode": "weightedmean"}, "pooling weightedmean"),
    ],
)
def test_other_poolings_are_refused_by_name(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    sentence_transformer(tmp_path, "mean_tokens")
    _pooling(tmp_path, **config)
    with pytest.raises(SettingsError, match=named):
        conventions.read(str(tmp_path))


def test_dense_layers_prompts_and_similarities_that_vllm_leaves_out_are_refused(tmp_path: Path) -> None:
    path = bert(tmp_path, "mean_tokens", {"query": "q: ", "document": ""}, dense=32)
    layer = tmp_path / "2_Dense" / "config.json"
    config = json.loads(layer.read_text())
    for change, named in [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "activation .*Mish of the Dense layer"),
        ({"use_residual": True}, "the residual or other input of the Dense layer"),
    ]:
        layer.write_text(json.dumps(config | change))
        with pytest.raises(SettingsError, match=named):
            conventions.read(path)
    layer.write_text(json.dumps(config))
    weights = tmp_path / "2_Dense" / "model.safetensors"
    before = model(path).fingerprint
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert model(path).fingerprint != before
    assert before["modules"] == "mean > Dense 32 Tanh"
    weights.unlink()
    with pytest.raises(SettingsError, match="which has no safetensors weights"):
        conventions.read(path)

    sentence_transformer(tmp_path, "mean_tokens", {"query": "q: "})
    _pooling(tmp_path, pooling_mode_mean_tokens=True, include_prompt=False)
    with pytest.raises(SettingsError, match="include_prompt = false"):
        _ = model(path).tokenizer
    assert model(path, query_prompt="").tokenizer
    _modules(tmp_path, TRANSFORMER, POOLING)
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    with pytest.raises(SettingsError, match="similarity dot of vectors that are not normalised"):
        conventions.read(path)
    (tmp_path / "config_sentence_transformers.json").unlink()
    with pytest.raises(SettingsError, match=r"special token \[SEP\]"):
        _ = model(path, document_prompt="a [SEP] ").tokenizer


def test_all_minilm_l6_v2_keeps_its_fingerprint(minilm_path: str) -> None:
    """What version 4d2741a recorded of it, with the settings of the index that the tests keep."""
    recorded = json.loads((Path(__file__).parents[1] / "storage" / "made-by-4d2741a.json").read_text(encoding="utf-8"))
    settings = recorded["settings"]["model"] | {"name": minilm_path}
    assert open_model(ModelSettings(**settings), EngineSettings()).fingerprint == recorded["fingerprint"]
