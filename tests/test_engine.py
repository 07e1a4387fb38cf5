"""The engine: order, refusals, arguments."""

from concurrent.futures import Executor

import numpy as np
import pytest

from indexer.engine import Engine, EngineDead, EngineError, argument_names, check_arguments, check_scores, check_vectors
from indexer.errors import SettingsError

UNIT = np.eye(3, 8, dtype=np.float32)


def embed_in_two_orders(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...], list[str]]:
    """Vectors of sequences of all lengths, of the same ones shuffled, and the shuffle; what bad input raises."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(10, 5000, length).tolist() for length in generator.integers(1, 60, 300)]
    engine = Engine(path, max_tokens=64, canary=rows[:3], dtype="float32", arguments={"enforce_eager": True})
    order = generator.permutation(len(rows))
    raised = []
    for bad in ([[]], [[7] * 65]):
        with pytest.raises(ValueError, match="token ids") as error:
            engine.embed(bad)
        raised.append(str(error.value))
    straight, shuffled = engine.embed(rows), engine.embed([rows[at] for at in order])
    empty = engine.embed([]).shape
    engine._engine.step = None
    with pytest.raises(EngineDead):
        engine.embed(rows[:2])
    return straight, shuffled, order, empty, raised


def test_rows_come_back_in_input_order(qwen_path: str, engine_process: Executor) -> None:
    straight, shuffled, order, empty, raised = engine_process.submit(embed_in_two_orders, qwen_path).result()
    assert straight.dtype == np.float32
    assert straight.flags.c_contiguous
    np.testing.assert_allclose(straight[order], shuffled, atol=1e-4)
    assert np.abs(straight[0] - straight[1]).max() > 1e-2
    assert empty == (0, 256)
    assert raised == [
        "a sequence has 0 token ids; 1 to 64 are possible",
        "a sequence has 65 token ids; 1 to 64 are possible",
    ]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (UNIT[:, :7], "width 7, not 8"),
        (np.where(UNIT == 1, np.nan, UNIT), "not finite"),
        (UNIT * 0.9, "norm 0.9000 to 0.9000"),
        (UNIT[[0, 0, 1]], "the same vector"),
    ],
)
def test_the_canary_refuses_unusable_vectors(vectors: np.ndarray, message: str) -> None:
    check_vectors(UNIT, 8)
    with pytest.raises(EngineError, match=message):
        check_vectors(vectors, 8)


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.2, np.nan, 0.1], [0.2, 1.2, 0.1]])
def test_the_canary_refuses_unusable_scores(scores: list[float]) -> None:
    check_scores(np.array([0.1, 0.9, 0.3], np.float32))
    with pytest.raises(EngineError):
        check_scores(np.array(scores, np.float32))


def test_arguments_are_vllms_own() -> None:
    assert "max_num_seqs" in argument_names()
    check_arguments({"max_num_seqs": 8})
    with pytest.raises(SettingsError, match=r"did you mean engine\.max_num_seqs\?"):
        check_arguments({"max_num_seq": 8})
    with pytest.raises(SettingsError, match=r"set model\.max_tokens"):
        check_arguments({"max_model_len": 8})
    with pytest.raises(SettingsError, match="cannot be set"):
        check_arguments({"trust_remote_code": True})
