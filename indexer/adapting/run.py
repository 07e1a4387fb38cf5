"""An adaptation: the same settings on the same epoch are done once."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from indexer.adapting.adaptation import Adaptation
from indexer.adapting.reranker_adaptation import RerankerAdaptation
from indexer.adapting_settings import AdaptSettings
from indexer.cluster.connection import Cluster
from indexer.corpus.listing import list_files
from indexer.evaluation import report
from indexer.inference.model import Reranker, open_reranker
from indexer.progress import say
from indexer.search.published import Published, open_published
from indexer.search.query_vectors import refuse_token_vectors
from indexer.storage.put_once import PutOnceFolder
from indexer.storage.records import canonical


def run(settings: AdaptSettings, cluster: Cluster | None = None) -> dict[str, Any]:
    """Adapts the index's model; the same settings on the same epoch give what an earlier run found.

    Args:
        settings: The settings.
        cluster: A connected cluster, which stays connected.

    Returns:
        The summary, JSON-ready; without any text of queries or documents. ``adopted`` says whether the model is.

    Raises:
        SettingsError: The settings contradict the index.
        CorpusError: Queries or judgements cannot be used, or too few pairs are left.
        IndexerError: Anything else that ends the run.
    """
    published = open_published(settings.index.uri, settings.index.name, engine=settings.engine.arguments)
    refuse_token_vectors(published.epoch, "jobs.adapt")
    reranker = open_reranker(settings.reranker, settings.engine) if settings.reranker else None
    name = f"epoch-{published.epoch.number:06d}-{report.identity(settings, _inputs(settings, published, reranker))}"
    folder = PutOnceFolder(settings.output.uri, name, "output.uri")
    known = report.finished(folder)
    if known is not None:
        say("an earlier run adapted this epoch's model with the same settings: its result is given")
        return known
    with ExitStack() as stack:
        cluster = cluster or stack.enter_context(Cluster(settings.cluster, settings.engine.replicas_per_gpu))
        path = Path(settings.output.uri) / name
        kind = RerankerAdaptation if settings.train.kind == "reranker" else Adaptation
        return kind(settings, published, reranker, cluster, folder, path).finish()


def _inputs(settings: AdaptSettings, published: Published, reranker: Reranker | None) -> list[str]:
    """Identities of everything that the settings only name."""
    given = [("queries.uri", settings.queries), ("judgements.uri", settings.judgements)]
    uris = [(name, source.uri) for name, source in given if source]
    if settings.guard:
        guard = settings.guard
        uris += [
            ("guard.corpus", guard.corpus),
            ("guard.queries", guard.queries),
            ("guard.judgements", guard.judgements),
        ]
    found = [file.identity for name, uri in uris for file in list_files(uri, name)]
    # An index that was deleted and made anew at the same place counts its epochs from 1 again.
    made_of = [published.epoch.intent, published.model.fingerprint_digest]
    return [*found, *made_of, *([canonical(reranker.fingerprint)] if reranker else [])]
