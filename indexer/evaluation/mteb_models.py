"""Models for ``mteb.evaluate`` whose engines run on our actors; needs the extra ``mteb``.

.. code-block:: python

    with Cluster(ClusterSettings()) as cluster, MtebEncoder(cluster, open_model(settings, EngineSettings())) as encoder:
        results = mteb.evaluate(encoder, mteb.get_tasks(tasks=["NFCorpus"]))
"""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from indexer.cluster.connection import Cluster
from indexer.errors import SettingsError
from indexer.evaluation.remote_engine import RemoteEngine
from indexer.inference import matryoshka
from indexer.inference.embed_inputs import QUERY_TEMPLATE
from indexer.inference.model import Model, Reranker


class _OnActors:
    """Engines that live as long as a ``with`` block."""

    _serving: RemoteEngine

    def __enter__(self) -> Self:
        """Starts the engines."""
        self._serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends them."""
        self._serving.__exit__()


class MtebEncoder(_OnActors, AbsEncoder):
    """An embedding model behind mteb's encoder protocol (:class:`mteb.models.EncoderProtocol`).

    Qwen3-Embedding gets the task's own instruction before queries and before the texts of tasks that know no sides, and
    none before documents, as its authors evaluate it (model card, and their registration with mteb).
    """

    def __init__(self, cluster: Cluster, model: Model, width: int | None = None) -> None:
        """Describes the encoder; :meth:`__enter__` starts its engines.

        Args:
            cluster: The cluster; it serves one model at a time.
            model: The model.
            width: Matryoshka width of the vectors, the model's own by default.

        Raises:
            SettingsError: ``model.overflow`` would give a text several vectors or none.
        """
        if model.settings.overflow != "truncate":
            raise SettingsError("model.overflow must be truncate: mteb wants one vector for every text")
        self.model = model
        self.width = width or model.checkpoint.dimension
        self.instructed = model.tokenizer.query_template == QUERY_TEMPLATE
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": _name(model),
                "revision": model.revision or model.checkpoint.digest[:12],
                "embed_dim": self.width,
                "max_tokens": model.max_tokens,
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": self.instructed,
            }
        )
        self._serving = RemoteEngine(cluster, model.engine, "embed")

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002  # mteb's protocol
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Vectors of texts.

        Args:
            inputs: Batches with ``text``.
            task_metadata: The task; gives the instruction.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Whether the texts are queries or documents; ``None`` where the task knows no sides.

        Returns:
            float32, shape (texts, width), unit norm. A text without any token has a vector of zeros.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt_type == PromptType.document:
            return self._documents(texts)
        task = self.get_instruction(task_metadata, prompt_type) if self.instructed else None
        return self._cut(self._serving.embed(self.model.tokenizer.queries(texts, [task] * len(texts))))

    def _documents(self, texts: list[str]) -> np.ndarray:
        """Vectors of documents; one without tokens keeps zeros."""
        batch = self.model.tokenizer.documents(texts)
        vectors = np.zeros((len(texts), self.width), np.float32)
        vectors[batch.row] = self._cut(self._serving.embed(batch.ids))
        return vectors

    def _cut(self, vectors: np.ndarray) -> np.ndarray:
        return matryoshka.cut(vectors, self.width)


class MtebCrossEncoder(_OnActors):
    """A reranker behind mteb's cross-encoder protocol (:class:`mteb.models.CrossEncoderProtocol`)."""

    def __init__(self, cluster: Cluster, reranker: Reranker) -> None:
        """Describes the cross-encoder; :meth:`__enter__` starts its engines.

        Args:
            cluster: The cluster; it serves one model at a time.
            reranker: The reranker.
        """
        self.reranker = reranker
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": _name(reranker),
                "revision": reranker.revision or reranker.checkpoint.digest[:12],
                "max_tokens": reranker.settings.max_tokens,
                "use_instructions": reranker.tokenizer.takes_instructions,
                "model_type": ["cross-encoder"],
            }
        )
        self._serving = RemoteEngine(cluster, reranker.engine, "score")

    def predict(
        self,
        inputs1: Iterable[dict[str, Any]],
        inputs2: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002  # mteb's protocol
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,  # noqa: ARG002
        **_: Any,
    ) -> np.ndarray:
        """Scores of pairs.

        Args:
            inputs1: Batches with the queries in ``text``.
            inputs2: Batches with the documents in ``text``.
            task_metadata: The task; gives the instruction.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Not used.

        Returns:
            float32, shape (pairs,).
        """
        queries, documents = ([text for batch in side for text in batch["text"]] for side in (inputs1, inputs2))
        task = _instruction(task_metadata) if self.reranker.tokenizer.takes_instructions else None
        return self._serving.score(self.reranker.tokenizer.pairs(queries, documents, [task] * len(queries)))


def _instruction(task_metadata: Any) -> str | None:
    """The task's own instruction for queries; the reranker's where it has none."""
    prompt = task_metadata.prompt
    return prompt.get("query") if isinstance(prompt, dict) else prompt


def _name(model: Model | Reranker) -> str:
    """mteb wants ``organisation/name``."""
    name = model.settings.name.rstrip("/")
    return name if name.count("/") == 1 else f"local/{name.rsplit('/', 1)[-1]}"
