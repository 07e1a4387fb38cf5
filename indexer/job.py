"""A run's inputs, opened and checked before any engine starts."""

from dataclasses import dataclass

from indexer import widths
from indexer.corpus import Corpus, open_corpus
from indexer.epochs import ControlStore, Epoch
from indexer.errors import SettingsError
from indexer.files import DataFile
from indexer.model import Model, open_model
from indexer.schema import Layout
from indexer.settings import Settings


@dataclass(frozen=True)
class Job:
    """Everything a run works with, opened and checked.

    Attributes:
        settings: The settings.
        corpus: The listed corpus.
        model: The model.
        layout: The tables.
        store: Control files.
        published: The epoch the run starts from.
    """

    settings: Settings
    corpus: Corpus
    model: Model
    layout: Layout
    store: ControlStore
    published: Epoch | None

    @property
    def epoch(self) -> int:
        """Number of the epoch the run builds."""
        return self.published.number + 1 if self.published else 1

    @property
    def is_published(self) -> bool:
        """Whether the published epoch was made of these very files, with nothing left to try again."""
        if self.published is None or self.published.description["corpus"] != self.corpus.digest:
            return False
        return not self.published.description["to_retry"]

    def digest_name(self, file: DataFile) -> str:
        """Name of a file's digest."""
        return f"{self.corpus.columns_digest}-{file.identity}"


def open_job(settings: Settings) -> Job:
    """Opens and checks everything a run needs, before any engine starts.

    Raises:
        SettingsError: The model cannot be had, a width is impossible, or the published index was built otherwise.
        CorpusError: There is no usable corpus.
    """
    corpus = open_corpus(settings.corpus)
    model = open_model(settings.model, settings.engine)
    index = settings.index
    wide = tuple(sorted(index.widths, reverse=True))
    widths.check(wide, model.checkpoint.dimension)
    store = ControlStore(index.uri, index.name)
    published = store.latest_epoch()
    generation = published.generation if published else 1
    layout = Layout(index.name, generation, wide, index.precision, index.metric, corpus.payload)
    if published is not None:
        _refuse_mixture(published, model, layout)
    return Job(settings, corpus, model, layout, store, published)


def _refuse_mixture(published: Epoch, model: Model, layout: Layout) -> None:
    """Vectors of two fingerprints are not comparable, and a table has one schema."""
    ours = {**model.fingerprint, **layout.describe()}
    theirs = {**published.description["fingerprint"], **published.description["layout"]}
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        raise SettingsError(
            f"the published index was built with other {', '.join(differing)}; vectors are never mixed: restore the "
            "settings, or choose another index.name"
        )
