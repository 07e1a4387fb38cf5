"""A run's inputs, opened and checked before any engine starts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from indexer.corpus.documents import Corpus, common_payload, open_corpus
from indexer.corpus.types import without_null_type
from indexer.errors import SettingsError
from indexer.indexing.contradictions import contradictions, differences, refusal, stored_payload
from indexer.indexing.searched import check_searched, search_differs
from indexer.inference import matryoshka
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.progress import say
from indexer.publishing.condition import free_generation, missing_tables, refuse_newer_tables
from indexer.publishing.history import refuse_held
from indexer.schema import Layout
from indexer.settings import Settings
from indexer.storage.control import ControlStore
from indexer.storage.records import Epoch
from indexer.storage.trial import first_refused

Rebuild = bool | Literal["always"]


@dataclass(frozen=True)
class Job:
    """Everything a run works with, opened and checked.

    Attributes:
        settings: The settings.
        corpus: The listed corpus.
        model: The model.
        layout: The tables.
        store: Control files.
        published: The epoch the run starts from, ``None`` for the first one of a generation.
        latest: The latest epoch, ``None`` before the first; a rebuild has it although ``published`` is ``None``.
        epoch: Number of the epoch the run builds.
        scratch: Directory for new digests, for a run that must not write into the index.
    """

    settings: Settings
    corpus: Corpus
    model: Model
    layout: Layout
    store: ControlStore
    published: Epoch | None
    latest: Epoch | None
    epoch: int
    scratch: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether the published epoch was made from exactly these files, with nothing left to retry."""
        if self.published is None or self.published.description.corpus != self.corpus.digest:
            return False
        return not (self.published.description.to_retry or self.settings_differ)

    @property
    def settings_differ(self) -> bool:
        """Whether settings that change no vector differ from the published ones: the run publishes, embedding nothing.

        They are the query instruction and what can be searched.
        """
        return self.query_instruction_changed or search_differs(self.settings.index, self.published)

    @property
    def query_instruction_changed(self) -> bool:
        """Whether the query instruction differs from the published one; documents' vectors do not depend on it."""
        if self.published is None:
            return False
        return self.published.description.model.query_instruction != self.model.query_instruction


def open_job(settings: Settings, model: Model | None = None, *, rebuild: Rebuild = False) -> Job:
    """Opens and checks everything a run needs, before any engine starts.

    Args:
        settings: The settings.
        model: A model to use instead of the configured one.
        rebuild: Whether contradicting settings build a new generation instead of raising an error. ``always`` builds
            one even if nothing differs.

    Returns:
        The run's inputs.

    Raises:
        SettingsError: The model cannot be loaded, a width is impossible, or the settings contradict the index.
        RefusedError: A rollback holds the index, or its control folder is older than its tables.
        CorpusError: There is no usable corpus.
    """
    listed = open_corpus(settings.corpus)
    model = model or open_model(settings.model, settings.engine)
    index = settings.index
    wide = tuple(sorted(index.widths, reverse=True))
    matryoshka.check(wide, model.checkpoint.dimension)
    _check_max_tokens(settings, model)
    store = ControlStore(index.uri, index.name)
    latest, number = store.latest_epoch(), store.next_number()
    refuse_held(store, latest)
    lost = missing_tables(index.uri, latest) if latest else []
    published = None if lost else latest
    generation = latest.generation if latest else 1
    stored = stored_payload(index.uri, published, listed.payload) if published else None
    corpus = _as_published(listed, published, stored) if published else _as_new(listed)
    layout = Layout(index.name, generation, wide, index.precision, index.metric, corpus.payload)
    found = contradictions(published, settings, model, layout, stored) if published else []
    if found and not rebuild:
        raise SettingsError(refusal(found))
    if found or lost or rebuild == "always":
        corpus = _as_new(listed)
        layout = free_generation(index.uri, store, replace(layout, payload=corpus.payload))
        reason = f"published tables are gone ({', '.join(lost)})" if lost else differences(found) or "asked for"
        say(f"{reason}: building generation {layout.generation} beside the published one")
        published = None
    elif store.pending_intent() is None:
        refuse_newer_tables(index.uri, store, layout, number)
    if published is None:
        _check_payload(layout.payload)
    check_searched(index, layout.payload)
    return Job(settings, corpus, model, layout, store, published, latest, number)


def _check_max_tokens(settings: Settings, model: Model) -> None:
    """Refuses a limit above the model's positions. The engine checks scaled ones (rope_scaling, hf_overrides)."""
    config = model.checkpoint.config
    most = config.get("max_position_embeddings")
    scaled = config.get("rope_scaling") or "hf_overrides" in settings.engine.arguments
    if most is not None and not scaled and settings.model.max_tokens > int(most):
        raise SettingsError(
            f"model.max_tokens: {settings.model.max_tokens} is above the {most} positions of {settings.model.name}"
        )


def _check_payload(payload: pa.Schema) -> None:
    """Refuses columns that tables cannot hold or searches cannot return, before anything is read."""
    refused = first_refused(payload) if payload.names else None
    if refused is not None:
        field, reason = refused
        raise SettingsError(
            f"corpus.payload: column {field.name!r} of type {field.type} cannot be stored and searched: {reason}; "
            "leave it out of corpus.payload, or write it under another name or as another type, e.g. as text"
        )


def _as_published(corpus: Corpus, published: Epoch, stored: pa.Schema | None) -> Corpus:
    """The corpus, read with the stored types if they can hold its values, and with the epoch's text rule."""
    payload = common_payload(stored, corpus.payload) if stored is not None else None
    read = replace(corpus, payload=payload or corpus.payload)
    return replace(_as_new(read), skip_empty=published.description.skip_empty)


def _as_new(corpus: Corpus) -> Corpus:
    """The corpus, read for new tables: a column that is null in every file is stored as text."""
    told = [pa.field(field.name, without_null_type(field.type)) for field in corpus.payload]
    return replace(corpus, payload=pa.schema(told))


@dataclass(frozen=True)
class Target:
    """Where the rows of a run go.

    Attributes:
        corpus: The listed corpus.
        layout: The tables.
        uri: The LanceDB database.
        epoch: The epoch being built.
        admit: Raises if an engine does not reproduce the published vectors; ``None`` if no engine is used.
    """

    corpus: Corpus
    layout: Layout
    uri: str
    epoch: int
    admit: Callable[[Embedder, ControlStore], None] | None = None
