"""Queries written by a language model for documents of an index, kept where a reranker finds that they are answered.

After InPars (Bonifacio et al. 2022, arXiv:2202.05144) and Promptagator (Dai et al. 2022, arXiv:2209.11755), which keep
what a ranking model trusts.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import CorpusError, SettingsError
from indexer.evaluation.judgements import Questions
from indexer.evaluation.known_items import drawn
from indexer.evaluation_settings import SyntheticSettings
from indexer.inference.generator import Generator
from indexer.inference.model import Configured, resolved
from indexer.inference.sequences import TokenSequences
from indexer.inference.tokenizer import TextEncoder, text_encoder
from indexer.search.published import Published
from indexer.settings import EngineSettings

PLACE = "{document}"

Write = Callable[[TokenSequences], list[list[int]]]

Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Writer(Configured[SyntheticSettings]):
    """A generator: its engine, and its prompts."""

    @property
    def max_tokens(self) -> int:
        """Most ids of a prompt with its query."""
        return self.settings.max_tokens

    @cached_property
    def _encoder(self) -> TextEncoder:
        return text_encoder(self.checkpoint.path)

    def engine(self) -> Generator:
        """Starts the engine in this process."""
        return Generator(self.spec, written=self.settings.query_tokens, ends=self._ends())

    def prompts(self, documents: Sequence[str], values: Sequence[Mapping[str, str]] | None = None) -> TokenSequences:
        """Token ids of a prompt for each document, which is cut where it is too long.

        Args:
            documents: The documents.
            values: For each document what stands for the other names in the prompt, if it has some.

        Raises:
            SettingsError: ``synthetic.max_tokens`` is too small for any document.
        """
        given = [dict(one) for one in values] if values is not None else [{}] * len(documents)
        rendered = self._rendered()
        found: dict[int, np.ndarray] = {}
        for chosen in {tuple(sorted(one.items())): one for one in given}.values():
            rows = [row for row, one in enumerate(given) if one == chosen]
            ids = self._filled(rendered, chosen, [documents[row] for row in rows])
            found |= dict(zip(rows, ids, strict=True))
        return TokenSequences.of(found[row] for row in range(len(documents)))

    def _filled(self, rendered: str, values: Mapping[str, str], documents: Sequence[str]) -> TokenSequences:
        """Token ids of prompts that differ in their document only."""
        text = re.sub(r"\{(\w+)\}", lambda place: values.get(place[1], place[0]), rendered)
        before, after = (self._encoder.full.encode(part, add_special_tokens=False).ids for part in text.split(PLACE))
        budget = self.settings.max_tokens - self.settings.query_tokens - len(before) - len(after)
        if budget < 1:
            raise SettingsError(f"synthetic.max_tokens: {self.settings.max_tokens} leaves no room for a document")
        return self._encoder.beginnings(documents, budget).ids.framed(before, after)

    def query(self, ids: Sequence[int]) -> str:
        """The query that was written: the first line with anything in it, without quotes around it."""
        text = self._encoder.full.decode(list(ids), skip_special_tokens=True)
        lines = (line.strip().strip('"').strip() for line in text.splitlines())
        return next((line for line in lines if line), "")

    def _rendered(self) -> str:
        """The prompt in the model's own chat template, or as it is where the model has none."""
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(self.checkpoint.path)
        if not tokenizer.chat_template:
            return self.settings.prompt
        turn = [{"role": "user", "content": self.settings.prompt}]
        rendered = tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        if rendered.count(PLACE) != 1:
            raise SettingsError(f"synthetic.name: the chat template of {self.settings.name} does not keep the prompt")
        return str(rendered)

    def _ends(self) -> list[int]:
        """Tokens that end an answer; a chat model has more than one."""
        file = Path(self.checkpoint.path) / "generation_config.json"
        configs = [json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []
        found = [config.get("eos_token_id") for config in [*configs, self.checkpoint.config]]
        ids = [token for ends in found if ends is not None for token in (ends if isinstance(ends, list) else [ends])]
        return sorted(set(ids))


def open_writer(settings: SyntheticSettings, engine: EngineSettings) -> Writer:
    """Finds the generator's files.

    Raises:
        SettingsError: There is no such model, or its files are not those of ``synthetic.sha256``.
    """
    return Writer(settings, engine, resolved(settings).revision)


def make(published: Published, writer: Writer, write: Write, score: Score) -> Questions:
    """Draws documents, has a query written for each and keeps those that the document answers.

    Args:
        published: The index; its payload must hold the text.
        writer: The generator's prompts.
        write: Gives what the generator writes after prompts.
        score: Gives the reranker's scores of queries with documents.

    Returns:
        Queries under their documents' ids, and how many were dropped.

    Raises:
        CorpusError: None is left.
    """
    settings = writer.settings
    names = drawn(published.snapshot, settings.count)
    documents = [text or "" for text in published.texts(names)]
    queries = [writer.query(ids) for ids in write(writer.prompts(documents))]
    scores = score(queries, documents)
    found: dict[str, str] = {}
    asked: set[str] = set()
    unanswered = 0
    for name, query, value in zip(names, queries, scores, strict=True):
        if query and not value >= settings.least_score:
            unanswered += 1
        elif query and query not in asked:
            asked.add(query)
            found[name] = query
    if not found:
        raise CorpusError(
            f"synthetic: no query is left of {len(names)}: {unanswered} have a score below "
            f"synthetic.least_score = {settings.least_score}, {len(names) - unanswered} are empty"
        )
    notes = {
        "written queries that the reranker finds unanswered": unanswered,
        "written queries that are empty or the same": len(names) - len(found) - unanswered,
    }
    judgements = {name: {name: 1} for name in found}
    return Questions(found, judgements, notes={note: count for note, count in notes.items() if count})
