"""The models of a run, as every process builds them: tokenizer, engine, fingerprint."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Generic, TypeVar

from indexer.differences import differing
from indexer.errors import EngineError, SettingsError
from indexer.inference import checkpoint
from indexer.inference.checkpoint import Checkpoint
from indexer.inference.conventions import QWEN3_PROMPT, VLLM_POOLINGS
from indexer.inference.embed_inputs import QUERY_TEMPLATE, EmbedTokenizer, Prompts
from indexer.inference.engine import Embedder, Engine, Scorer
from indexer.inference.engine_arguments import check_arguments, fingerprint_of
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.late_interaction import LateInteraction
from indexer.inference.pair_inputs import PairTokenizer
from indexer.inference.reference import PROBES
from indexer.inference.token_inputs import LateInteractionTokenizer
from indexer.job_settings import CheckpointSettings
from indexer.progress import say
from indexer.settings import EngineSettings, ModelSettings, RerankerSettings

CANARY_TEXTS = ("The capital of China is Beijing.", "Gravity pulls bodies towards each other.", "def add(a, b): ...")
"""Texts that every engine embeds before it is used."""

CANARY_PAIRS = (
    ("What is the capital of China?", CANARY_TEXTS[0]),
    ("What is the capital of China?", CANARY_TEXTS[1]),
    ("How do I add two numbers in Python?", CANARY_TEXTS[2]),
)
"""Pairs that every reranker's engine scores before it is used."""

COMPUTATION = frozenset({"quantization", "hf_overrides", "pooler_config"})
"""Settings of the model that become vLLM arguments."""

SettingsT = TypeVar("SettingsT", bound=CheckpointSettings)


@dataclass(frozen=True)
class Configured(ABC, Generic[SettingsT]):
    """A model and its settings; small enough to be sent to workers.

    Attributes:
        settings: The model section.
        engine_settings: The engine section.
        revision: Commit of a hub model, so that every worker loads the same one.
    """

    settings: SettingsT
    engine_settings: EngineSettings
    revision: str | None

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields are pickled. A text splitter cannot be, and every process loads its own tokenizer."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The files on this machine; missing ones are fetched."""
        return checkpoint.resolve(self.settings.name, self.revision)

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Most ids of one sequence."""

    @property
    def overrides(self) -> dict[str, Any]:
        """vLLM arguments from settings of the model, if they are set."""
        given = self.settings.model_dump(include=set(COMPUTATION))
        return {name: value for name, value in given.items() if value}

    @property
    def computation(self) -> dict[str, str]:
        """The computation's part of a fingerprint; a key only for what is set."""
        ours = {
            name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for name, value in self.overrides.items()
        }
        return ours | fingerprint_of(self.engine_settings.arguments)

    @property
    def spec(self) -> EngineSpec:
        """Arguments to start an engine of the model."""
        return EngineSpec(
            path=self.checkpoint.path,
            dtype=self.dtype,
            max_tokens=self.max_tokens,
            arguments=self.engine_settings.arguments,
            overrides=self.overrides,
            slowest=self.engine_settings.slowest,
            packed=self.engine_settings.packed,
            gpu_engines=self.engine_settings.replicas_per_gpu,
        )

    @property
    def dtype(self) -> str:
        """dtype of the computation; ``auto`` is the checkpoint's own.

        vLLM's ``auto`` turns float32 checkpoints into float16, which is 10 times slower on a CPU (measured on MiniLM).
        """
        config = self.checkpoint.config
        own = config.get("dtype") or config.get("torch_dtype") or "float32"
        return str(own) if self.settings.dtype == "auto" else self.settings.dtype


@dataclass(frozen=True)
class Model(Configured[ModelSettings]):
    """An embedding model."""

    @property
    def max_tokens(self) -> int:
        """Cap on the ids of one sequence: the setting; by default the checkpoint's own limit applies too.

        Raises:
            SettingsError: The setting is above the checkpoint's limit from training.
        """
        limit, given = self.checkpoint.conventions.max_tokens, self.settings.max_tokens
        if limit is None or given <= limit:
            return given
        if "max_tokens" not in self.settings.model_fields_set:
            return limit
        if self.checkpoint.conventions.is_strict:
            raise SettingsError(f"model.max_tokens: {given} is above the checkpoint's max_seq_length {limit}")
        return given

    @property
    def query_instruction(self) -> str:
        """The task before queries: the setting, otherwise the task in the checkpoint's own prompt."""
        if "query_instruction" in self.settings.model_fields_set or self._own_instruction is None:
            return self.settings.query_instruction
        return self._own_instruction

    @cached_property
    def _own_instruction(self) -> str | None:
        """The task in a prompt of Qwen3-Embedding's form; ``None`` without such a prompt."""
        found = QWEN3_PROMPT.fullmatch(self._query_prompt or "")
        return found.group(1) if found else None

    @property
    def _query_prompt(self) -> str | None:
        """The query prompt: the setting, otherwise the checkpoint's."""
        given = self.settings.query_prompt
        return self.checkpoint.conventions.query_prompt if given is None else given

    @property
    def prompts(self) -> Prompts:
        """The prompts: the settings', otherwise the checkpoint's.

        Raises:
            SettingsError: The checkpoint's pooling leaves prompts out, which vLLM cannot.
        """
        conventions = self.checkpoint.conventions
        given = self.settings.document_prompt
        document = conventions.document_prompt if given is None else given
        query = self._query_prompt if self._own_instruction is None else QUERY_TEMPLATE
        conventions.check_prompts(query or "", document)
        return Prompts(query, document, conventions.lower_case)

    @cached_property
    def tokenizer(self) -> EmbedTokenizer:
        """The tokenizer with the model's templates and limits."""
        path, given = self.checkpoint.path, self.settings
        limits = (self.max_tokens, given.overflow, given.chunk_overlap)
        if self.late_interaction is not None:
            return LateInteractionTokenizer(path, self.late_interaction, *limits, prompts=self.prompts)
        return EmbedTokenizer(path, *limits, instruction=self.query_instruction, prompts=self.prompts)

    @property
    def late_interaction(self) -> LateInteraction | None:
        """Conventions of a model with a vector of every token; ``None`` for all others."""
        return self.checkpoint.conventions.late_interaction

    def engine(self) -> Embedder:
        """Starts the engine in this process.

        Raises:
            SettingsError: The files on this machine differ from ``model.sha256``.
            EngineError: It cannot start or gives unusable vectors.
        """
        checkpoint.check_files(self.checkpoint, self.settings.sha256)
        canary = self.tokenizer.truncated(CANARY_TEXTS)
        if self.late_interaction is not None:
            return Engine(self.spec, canary, mode="tokens", dimension=self.late_interaction.dimension)
        engine = Engine(self.spec, canary)
        wanted = self.checkpoint.conventions.pooling
        if wanted is not None and not self.settings.pooler_config and engine.pooling != VLLM_POOLINGS[wanted]:
            raise EngineError(f"vLLM pools by {engine.pooling}, the checkpoint by {wanted}; its vectors would be wrong")
        return engine

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Everything that changes a vector, by name: equal fingerprints mean comparable vectors."""
        return {
            "weights": self.checkpoint.digest,
            "tokenizer": self.tokenizer.digest,
            "max_tokens": str(self.max_tokens),
            "overflow": self.settings.overflow,
            "dtype": self.dtype,
            **self.computation,
            **self._conventions,
        }

    @property
    def _conventions(self) -> dict[str, str]:
        """The conventions' part of the fingerprint, beside the digests of tokenizer and weights.

        Conventions that every checkpoint had when fingerprints began are left out, so that old fingerprints stay equal.
        """
        own = self.checkpoint.conventions
        found = {"modules": own.modules} if not own.is_standard else {}
        if own.late_interaction is not None:
            found["late_interaction"] = own.late_interaction.canonical()
        return found | ({"document_prompt": self.prompts.document} if self.prompts.document else {})

    def conventions(self) -> dict[str, Any]:
        """How texts and vectors are treated, for people; JSON-ready."""
        return {
            "modules": self.checkpoint.conventions.modules,
            "dimension": self.checkpoint.dimension,
            "max_tokens": self.max_tokens,
            "lower_case": self.prompts.lower_case,
            "query_template": self.tokenizer.query_template,
            "query_instruction": self.query_instruction,
            "document_prompt": self.prompts.document,
        }

    def differing(self, theirs: Mapping[str, str], *, is_complete: bool) -> list[str]:
        """Names under which a recorded fingerprint differs from this one, sorted.

        Args:
            theirs: The recorded fingerprint.
            is_complete: Whether it records how numbers were computed. Earlier versions did not; for them the published
                vectors judge the engine before anything is embedded.
        """
        names = differing(self.fingerprint, theirs)
        return [name for name in names if is_complete or name in theirs or name not in self.computation]

    @cached_property
    def fingerprint_digest(self) -> str:
        """Eight bytes of the fingerprint, hexadecimal."""
        content = json.dumps(self.fingerprint, sort_keys=True).encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    @property
    def probe_ids(self) -> list[list[int]]:
        """Token ids of :data:`indexer.inference.reference.PROBES`."""
        return self.tokenizer.truncated(PROBES).tolist()

    def describe(self) -> dict[str, Any]:
        """Everything that a reader needs to embed queries."""
        return self.settings.model_dump(exclude_none=True) | {
            "max_tokens": self.max_tokens,
            "query_instruction": self.query_instruction,
            "revision": self.revision,
            "dimension": self.checkpoint.dimension,
            "query_template": self.tokenizer.query_template,
        }


@dataclass(frozen=True)
class Reranker(Configured[RerankerSettings]):
    """A reranker."""

    @property
    def max_tokens(self) -> int:
        """Most ids of one prompt: the setting; by default the model's positions are a cap too.

        Raises:
            SettingsError: The setting is above the model's positions.
        """
        most, given = self.checkpoint.positions, self.settings.max_tokens
        if most is None or given <= most or self.settings.hf_overrides:
            return given
        if "max_tokens" in self.settings.model_fields_set:
            raise SettingsError(f"max_tokens: {given} is above the {most} positions of {self.settings.name}")
        return most

    @cached_property
    def tokenizer(self) -> PairTokenizer:
        """The tokenizer with the model's template and limit."""
        return PairTokenizer(self.checkpoint.path, self.max_tokens, self.settings.instruction)

    def engine(self) -> Scorer:
        """Starts the engine in this process.

        Raises:
            SettingsError: The files on this machine differ from ``model.sha256``.
            EngineError: It cannot start or gives unusable scores.
        """
        checkpoint.check_files(self.checkpoint, self.settings.sha256)
        canary = self.tokenizer.pairs(*zip(*CANARY_PAIRS, strict=True))
        return Engine(self.spec, canary.ids, mode="score", canary_second=canary.second)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Everything that changes a score, by name."""
        return {"weights": self.checkpoint.digest, "tokenizer": self.tokenizer.digest, "dtype": self.dtype} | (
            self.computation
        )


def open_model(settings: ModelSettings, engine: EngineSettings) -> Model:
    """Finds the model's files.

    Args:
        settings: The model section.
        engine: The engine section.

    Returns:
        The model, its revision resolved to a commit.

    Raises:
        SettingsError: There is no such model, its files are unusable or differ from ``model.sha256``, or an engine
            argument is not vLLM's.
    """
    check_arguments(engine.arguments)
    return Model(settings, engine, resolved(settings).revision)


def open_reranker(settings: RerankerSettings, engine: EngineSettings) -> Reranker:
    """Finds the reranker's files, like :func:`open_model`."""
    check_arguments(engine.arguments)
    return Reranker(settings, engine, resolved(settings).revision)


def resolved(settings: CheckpointSettings) -> Checkpoint:
    """A model's files, checked against the configured digests."""
    found = checkpoint.resolve(settings.name, settings.revision)
    checkpoint.check_files(found, settings.sha256)
    if found.revision != settings.revision:
        say(
            f'warning: {settings.name} is not pinned to a commit; the one of today is revision = "{found.revision}"',
            "WARNING",
        )
    return found
