"""A run's inputs, opened and checked before any engine starts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

import pyarrow as pa

from indexer.corpus.documents import Corpus, open_corpus, read_types
from indexer.corpus.types import common_type, without_null_type
from indexer.errors import SettingsError
from indexer.indexing import cost, token_index
from indexer.indexing.contradictions import Contradiction, has_payload, of_vectors, refusal, stored_payload
from indexer.indexing.layout_change import NO_CHANGE, LayoutChange, gives, impossible, layout_change
from indexer.indexing.searched import check_searched, search_differs
from indexer.indexing.stored_vectors import StoredVectors
from indexer.inference import matryoshka
from indexer.inference.engine import Embedder
from indexer.inference.model import Model, open_model
from indexer.progress import say
from indexer.publishing.condition import (
    free_generation,
    missing_tables,
    refuse_foreign_tables,
    refuse_newer_tables,
)
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
        change: What the run changes of the published tables.
        further: Epochs that a rollback passed over and that are kept, the newest first.
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
    change: LayoutChange = NO_CHANGE
    further: tuple[Epoch, ...] = ()
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

        They are the query instruction, the tables and what can be searched.
        """
        asked = self.query_instruction_changed or search_differs(self.settings.index, self.published)
        return asked or bool(self.change.differences)

    @property
    def reusable(self) -> tuple[Epoch, ...]:
        """Epochs whose vectors can be used, the published one first."""
        return (self.published, *self.further) if self.published is not None else ()

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
    store = ControlStore(settings.index.uri, settings.index.name)
    latest, number = store.latest_epoch(), store.next_number()
    lost = missing_tables(settings.index.uri, latest) if latest else []
    published = None if lost else latest
    listed, stored = _listed(settings, published)
    model = model or open_model(settings.model, settings.engine)
    settings = token_index.fitted(settings, model)
    index = settings.index
    wide = tuple(sorted(index.widths, reverse=True))
    matryoshka.check(wide, model.checkpoint.dimension)
    _check_max_tokens(settings, model)
    refuse_held(store, latest)
    corpus = _as_published(listed, published, stored) if published else _as_new(listed)
    generation = latest.generation if latest else 1
    splits = settings.model.overflow == "chunk"
    hashes = published.description.layout.chunk_hashes if published else splits
    layout = Layout(index.name, generation, wide, index.precision, index.metric, corpus.payload, hashes)
    per_token = model.late_interaction is not None
    layout = replace(layout, repeated=_repeated(settings, corpus.payload, latest), per_token=per_token)
    change, found = _compared(published, settings, model, layout, stored)
    told = f"the published index was built with other settings: {', '.join([*map(str, found), *change.differences])}"
    if published and found and not rebuild:
        raise SettingsError(refusal(told, found, cost.of_rebuild(store, published, settings.run.gpu_hour_price)))
    if found or lost or rebuild == "always":
        # New tables are bound to no stored type.
        corpus = _as_new(read_types(settings.corpus, listed.files))
        layout = free_generation(index.uri, store, replace(layout, payload=corpus.payload, chunk_hashes=splits))
        reason = f"published tables are gone ({', '.join(lost)})" if lost else told if found else "asked for"
        say(f"{reason}: building generation {layout.generation} beside the published one")
        published, change = None, NO_CHANGE
    elif store.pending_intent() is None:
        refuse_newer_tables(index.uri, store, layout, number)
    return _checked(Job(settings, corpus, model, layout, store, published, latest, number, change))


def _listed(settings: Settings, published: Epoch | None) -> tuple[Corpus, pa.Schema | None]:
    """The corpus, and the published payload where the corpus has another one."""
    if published is None:
        return open_corpus(settings.corpus), None
    stored = stored_payload(settings.index.uri, published)
    listed = open_corpus(settings.corpus, stored)
    return listed, None if has_payload(published, listed.payload) else stored


def _checked(job: Job) -> Job:
    """The job, once nothing stands in the way of its tables, with the epochs whose vectors it can use."""
    index, layout = job.settings.index, job.layout
    if job.published is None or job.change.payload:
        _check_payload(layout.payload)
    check_searched(index, layout.payload)
    if job.published is None:
        return job
    refuse_foreign_tables(index.uri, job.store, sorted(job.change.remade))
    return replace(job, further=_passed_over(job, job.published))


def _repeated(settings: Settings, payload: pa.Schema, latest: Epoch | None) -> tuple[str, ...] | None:
    """Payload columns of the width tables if a table of documents has the payload; ``None`` without such a table."""
    index = settings.index
    stores_copies = index.payload == "copies"
    if index.payload == "auto":
        # Without chunks a copy costs a column per width, and a program that opens one table finds everything in it.
        is_chunked = settings.model.overflow == "chunk"
        stores_copies = not is_chunked if latest is None else latest.description.layout.repeated is None
    return None if stores_copies else tuple(sorted({*payload.names} & {*index.filters}))


def _compared(
    published: Epoch | None, settings: Settings, model: Model, layout: Layout, stored: pa.Schema | None
) -> tuple[LayoutChange, list[Contradiction]]:
    """What a run changes of the published tables, and what stored vectors cannot give."""
    if published is None:
        return NO_CHANGE, []
    found = [*of_vectors(published.description, settings, model), *impossible(published, layout)]
    change = layout_change(published, layout, stored, settings.index.vector_index)
    named = {one.name for one in found}
    differences = [text for text in change.differences if text.split(" (")[0] not in named]
    return replace(change, differences=differences), found


def _passed_over(job: Job, published: Epoch) -> tuple[Epoch, ...]:
    """Epochs between a rollback and the one it returned to: moving forward again uses their vectors."""
    returned_to = published.description.rollback_of
    if returned_to is None:
        return ()
    later = takewhile(lambda epoch: epoch.number > returned_to, job.store.newest_first())
    return tuple(
        epoch
        for epoch in later
        if epoch.number < published.number
        and not list(of_vectors(epoch.description, job.settings, job.model))
        and gives(epoch, job.layout)
        and not missing_tables(job.settings.index.uri, epoch)
    )


def _check_max_tokens(settings: Settings, model: Model) -> None:
    """Refuses a limit above the model's positions. The engine checks scaled ones (rope_scaling, hf_overrides)."""
    most = model.checkpoint.positions
    if most is not None and "hf_overrides" not in settings.engine.arguments and model.max_tokens > most:
        raise SettingsError(
            f"model.max_tokens: {model.max_tokens} is above the {most} positions of {settings.model.name}"
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
    """The corpus, read with the stored types where they can hold its values, and with the epoch's text rule."""
    payload = corpus.payload if stored is None else _kept_types(stored, corpus.payload)
    return replace(_as_new(replace(corpus, payload=payload)), skip_empty=published.description.skip_empty)


def _kept_types(stored: pa.Schema, payload: pa.Schema) -> pa.Schema:
    """The payload's columns with types that can hold the stored and the new values, else with the new types."""
    types = {
        field.name: common_type(stored.field(field.name).type, field.type) if field.name in stored.names else None
        for field in payload
    }
    # Another order alone is no other payload: tables keep theirs.
    names = stored.names if set(stored.names) == set(payload.names) else payload.names
    return pa.schema([pa.field(name, types[name] or payload.field(name).type) for name in names])


def _as_new(corpus: Corpus) -> Corpus:
    """The corpus, read for new tables: a column that is null in every file is stored as text."""
    told = [pa.field(field.name, without_null_type(field.type)) for field in corpus.payload]
    return replace(corpus, payload=pa.schema(told))


@dataclass(frozen=True)
class Target:
    """Where the rows of a run go.

    Attributes:
        corpus: The corpus, without the list of its files: shards name theirs.
        layout: The tables.
        uri: The LanceDB database.
        epoch: The epoch being built.
        chunks: The published vectors, if chunks of long documents can be found among them.
        admit: Raises if an engine does not reproduce the published vectors; ``None`` if no engine is used.
    """

    corpus: Corpus
    layout: Layout
    uri: str
    epoch: int
    chunks: StoredVectors | None = None
    admit: Callable[[Embedder, ControlStore, list[list[int]]], None] | None = None
