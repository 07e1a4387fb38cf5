"""Finds the engine settings that are fastest on a worker's machine for a corpus and a model."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from indexer.cluster.connection import Cluster
from indexer.corpus.documents import Corpus, first_texts, open_corpus
from indexer.errors import CorpusError, IndexerError, SettingsError
from indexer.inference import sweep
from indexer.inference.model import Model, open_model
from indexer.inference.sequences import TokenSequences
from indexer.inference.sweep import Setting, Subject, Timing
from indexer.progress import say
from indexer.settings import EngineSettings, Settings

FILES = 8
"""Files of the corpus that are sampled."""

TOKENS = 200_000
"""Tokens that every setting is timed on, about."""

GPU_TOKENS = 5_000_000
"""The same on a GPU: about a second of work for a small model, which the sweep repeats for some seconds."""

ROWS = 4_000
"""Rows read from a file."""


def tune(settings: Settings, written: Path) -> dict[str, Any]:
    """Times engine settings on a sample of the corpus and writes the best ``[engine]`` block.

    Args:
        settings: Settings of the job; its engine arguments are ignored.
        written: TOML file for the block, with all measured rates as comments.

    Returns:
        Every setting with its rate, the best first; JSON-ready.

    Raises:
        CorpusError: The corpus has no text to try.
        SettingsError: The model cannot be loaded, or it gives a vector of every token.
        IndexerError: No setting works.
    """
    model = open_model(settings.model, EngineSettings())
    if model.late_interaction is not None:
        raise SettingsError(f"--tune times engines with a vector of each text; of {settings.model.name} set [engine]")
    ids = model.tokenizer.documents(_sample(open_corpus(settings.corpus))).ids
    found: list[Timing] = []
    with Cluster(settings.cluster) as cluster:
        start, choices = cluster.on_machine(sweep.machine, model.max_tokens)
        ids = _about(ids, TOKENS if start.pinned else GPU_TOKENS)
        say(f"timing engine settings on {ids.tokens:,} tokens of {len(ids):,} texts")
        sent = cluster.sent(ids)
        for measured in sweep.best(partial(cluster.on_machine, _measure, model, sent), start, choices):
            name = measured.setting.named or "defaults"
            say(f"{measured.tokens_per_second:,.0f} tokens/s with {name} {measured.failure}")
            found.append(measured)
    found.sort(key=lambda measured: -measured.tokens_per_second)
    if not found[0].tokens_per_second:
        raise IndexerError(f"no engine setting works: {found[0].failure}")
    rates = "".join(f"# {measured.tokens_per_second:,.0f} tokens/s: {measured.setting.named}\n" for measured in found)
    written.write_text(f"# Measured by jobs.index --tune\n{rates}{found[0].setting.toml()}", encoding="utf-8")
    return {"written": str(written), "settings": [measured.describe() for measured in found]}


def _measure(model: Model, ids: TokenSequences, setting: Setting) -> Timing:
    """Runs on a worker's machine: times a setting with the model's files there."""
    return sweep.measure(Subject(model.spec, ids), setting)


def _sample(corpus: Corpus) -> list[str]:
    """Texts of some files, in random order."""
    files = random.Random(0).sample(corpus.files, min(FILES, len(corpus.files)))  # noqa: S311  # a sample, not a secret
    texts = [text for file in files for text in first_texts(corpus, file, ROWS) if text.strip()]
    if len(texts) < 2:  # noqa: PLR2004  # the engine's canary compares two
        raise CorpusError(f"corpus.uri: no texts to try in {files[0].path}")
    return random.Random(0).sample(texts, len(texts))  # noqa: S311


def _about(ids: TokenSequences, tokens: int) -> TokenSequences:
    """The first sequences that together have that many tokens; too few are repeated from the beginning."""
    rounds = -(-tokens // ids.tokens)
    ends = np.cumsum(np.tile(ids.lengths, rounds), dtype=np.int64)
    return ids.take(np.arange(1 + int(np.searchsorted(ends, tokens))) % len(ids))
