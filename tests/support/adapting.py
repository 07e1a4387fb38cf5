"""Small trainings for tests: pairs with something to learn, and a recipe whose first batch another library computed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from indexer.adapting.batches import first_pairs
from indexer.adapting.inputs import TrainingBatch
from indexer.adapting.pairs import Pair, to_table
from indexer.adapting.training import PAIRS, FirstBatch, Recipe
from indexer.adapting_settings import TrainSettings
from indexer.inference.model import open_model, open_reranker
from indexer.inference.sequences import TokenSequences
from indexer.settings import EngineSettings, ModelSettings, RerankerSettings
from tests.support import conventions
from tests.support.checkpoints import NO, YES

ADJECTIVES = "red green quiet heavy early broken modern rural double secret".split()

NOUNS = "bridge lantern violin harbour engine orchard ladder compass mirror kettle".split()


def pairs(count: int = 40) -> list[Pair]:
    """Pairs whose query and document share two words; half of them have a negative that shares one."""
    found = []
    for at in range(count):
        adjective, noun = ADJECTIVES[at % 10], NOUNS[at // 10 % 10]
        text = f"the {noun} that stood there was {adjective} and number {at} of a long row"
        other = f"the {noun} that nobody saw was {ADJECTIVES[(at + 3) % 10]}, number {at} of none"
        negatives = {f"n{at}": other} if at % 2 else {}
        found.append(Pair(f"q{at}", f"{adjective} {noun} {at}", f"d{at}", text, "titles", negatives=negatives))
    return found


def recipe(root: Path, path: str, turned: float = 0.0, given: Sequence[Pair] | None = None, **train: Any) -> Recipe:
    """A recipe in a folder of its own.

    Args:
        root: Folder of the run.
        path: Directory of the base.
        turned: How far the vectors that the engine is said to give are turned away from the model's own.
        given: The pairs; :func:`pairs` by default.
        **train: Settings of the training.
    """
    root.mkdir(parents=True, exist_ok=True)
    given = pairs() if given is None else given
    pq.write_table(to_table(given), root / PAIRS)
    settings = TrainSettings(**{"steps": 4, "batch": 8, "mini_batch": 4, "checkpoints": 2, **train})
    model = open_model(ModelSettings(name=path, max_tokens=64, dtype="float32"), EngineSettings())
    chosen = first_pairs(given, settings.batch, 0)
    batch = TrainingBatch.of(model.tokenizer, chosen)
    vectors = np.concatenate(reference(path, [one.query for one in chosen], [one.document for one in chosen]))
    vectors = vectors + turned * np.roll(vectors, 1, axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = FirstBatch(batch.texts, vectors.astype(np.float32))
    return Recipe(model, settings, (64, 32), 0, str(root), first)


def reference(path: str, queries: list[str], documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors by sentence-transformers with the checkpoint's own prompts, float32, unit norm."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": "float32"})
    options: dict[str, Any] = {"convert_to_numpy": True, "normalize_embeddings": True, "show_progress_bar": False}
    return model.encode_query(queries, **options), model.encode_document(documents, **options)


def reranker_recipe(root: Path, path: str, **train: Any) -> Recipe:
    """The same for a reranker; the scores of the first batch are those of Transformers."""
    root.mkdir(parents=True, exist_ok=True)
    given = pairs(12)
    pq.write_table(to_table(given), root / PAIRS)
    defaults = {"kind": "reranker", "steps": 4, "batch": 12, "mini_batch": 6, "checkpoints": 2, "learning_rate": 1e-3}
    settings = TrainSettings(**{**defaults, **train})
    model = open_reranker(RerankerSettings(name=path, max_tokens=160, dtype="float32"), EngineSettings())
    chosen = first_pairs(given, settings.batch, 0)
    queries, documents = [one.query for one in chosen], [one.document for one in chosen]
    ids = model.tokenizer.pairs(queries, documents).ids
    return Recipe(model, settings, (), 0, str(root), FirstBatch(ids, scores(path, ids)[:, None]))


def scores(path: str, ids: TokenSequences) -> np.ndarray:
    """Qwen3-Reranker's scores as on its model card: one prompt at a time, a softmax over the logits of no and yes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = [model(torch.from_numpy(row[None].astype(np.int64))).logits[0, -1, [NO, YES]] for row in ids]
    return torch.softmax(torch.stack(logits), dim=1)[:, 1].numpy()


def word_matcher(path: Path) -> str:
    """A BERT that finds texts with a query's words: its layers add nothing to the means of the words' vectors."""
    from safetensors.torch import load_file, save_file

    conventions.bert(path, "mean_tokens", {"query": "query: ", "document": "passage: "})
    weights = load_file(path / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("output.dense.weight", "position_embeddings.weight", "token_type_embeddings.weight")):
            tensor.zero_()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return str(path)
