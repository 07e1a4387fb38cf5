"""What an adaptation leaves: the report, the model card, ``adapt.json``, and the ``[model]`` block if it is adopted."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from indexer.adapting import weights
from indexer.adapting.gate import Comparison, Verdict
from indexer.adapting.judge import Collection
from indexer.adapting.pairs import Pair, trained
from indexer.adapting_settings import AdaptSettings
from indexer.evaluation import report
from indexer.evaluation.measures import NDCG
from indexer.inference import checkpoint
from indexer.inference.model import Configured, Model, Reranker, SettingsT
from indexer.search.published import Published
from indexer.storage.put_once import PutOnceFolder
from indexer.toml_text import section

NOTES = "notes.json"

ADAPT = "adapt.json"

MODEL = "model"
"""Directory of an adopted model in the folder of its run."""

LEGEND = (
    "Both models answer the test queries by exact search. A difference is of nDCG@10 from the base at the same width, "
    "with its 95 % confidence interval (paired bootstrap over queries); * marks those beyond chance."
)


@dataclass(frozen=True)
class Outcome:
    """A finished adaptation.

    Attributes:
        settings: The settings.
        published: The index.
        base: The model that was adapted.
        pairs: All pairs.
        test: The test queries with the documents that were searched.
        share: Share of the trained weights.
        tried: Mean nDCG@10 on the validation queries by share.
        widths: Both models on the test queries by width.
        guard: Both models on the guard's.
        verdict: What the gate says.
    """

    settings: AdaptSettings
    published: Published
    base: Model | Reranker
    pairs: Sequence[Pair]
    test: Collection
    share: float
    tried: Mapping[float, float]
    widths: Mapping[int, Comparison]
    guard: Comparison | None
    verdict: Verdict


def as_json(content: object) -> bytes:
    """JSON for a file."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def model_settings(settings: AdaptSettings, base: Configured[SettingsT], path: Path) -> SettingsT:
    """The base's settings for the model in a directory.

    Args:
        settings: Give the dtype of the written weights.
        base: The base.
        path: Directory of the model.

    Returns:
        Settings that compute the same way; in the written weights' dtype, where that was chosen.
    """
    dtype = base.dtype if settings.merge.dtype == "auto" else settings.merge.dtype
    update: dict[str, Any] = {"name": str(path), "revision": None, "dtype": dtype, "sha256": {}}
    return base.settings.model_copy(update=update)


def conclude(found: Outcome, folder: PutOnceFolder, root: Path, candidate: Path) -> dict[str, Any]:
    """Adopts the candidate or removes it, and writes the report; the summary is its last file.

    Args:
        found: The outcome.
        folder: The run's files.
        root: The same as a directory.
        candidate: Directory of the candidate.

    Returns:
        The summary.
    """
    block = ""
    target = root / MODEL
    if found.verdict.is_adopted:
        (candidate / weights.CARD).write_text(_card(found, folder), encoding="utf-8")
        weights.remove(target)  # of a run that was killed before its report was complete
        candidate.replace(target)
        block = _block(found, target)
    else:
        weights.remove(candidate)
    summary = _summary(found, folder, block) | {"report": str(root / "report.html")}
    folder.delete(ADAPT)
    folder.put(ADAPT, as_json(_record(found, summary)))
    report.write(folder, summary, report.Details(_queries(found), _worst(found)))
    return report.finished(folder) or summary


def _summary(found: Outcome, folder: PutOnceFolder, block: str) -> dict[str, Any]:
    """The summary, in the form of an evaluation's, so that its report shows it."""
    widest = max(found.widths)
    verdict = found.verdict
    reason = "; ".join(verdict.refusals) or f"the gain at width {widest} is beyond every gate"
    kept = trained(found.pairs)
    return {
        "title": f"Adaptation of {found.settings.index.name}, epoch {found.published.epoch.number}",
        "heading": "Adopted" if verdict.is_adopted else "Refused",
        "legend": LEGEND,
        "status": "adopted" if verdict.is_adopted else "refused",
        "adopted": verdict.is_adopted,
        "refusals": list(verdict.refusals),
        "note": verdict.note,
        "index": found.settings.index.name,
        "epoch": found.published.epoch.number,
        "model": found.base.settings.name,
        "published": found.published.epoch.published,
        "rows": found.published.state().rows,
        "asked": " and ".join(sorted({pair.source for pair in found.pairs if pair.split == "test"})),
        "queries": len(found.test.questions.texts),
        "judgements": sum(map(len, found.test.questions.judgements.values())),
        "notes": json.loads(folder.get(NOTES)),
        "pairs": {
            "trained": len(kept),
            "negatives": sum(len(pair.negatives) for pair in kept),
            "validation": sum(pair.split == "validation" for pair in found.pairs),
            "test": sum(pair.split == "test" for pair in found.pairs),
        },
        "steps": found.settings.train.steps,
        "share": found.share,
        "validation": {f"{share:g}": round(value, 4) for share, value in found.tried.items()},
        "guard": None if found.guard is None else _difference(found.guard),
        "configurations": [
            row for width in sorted(found.widths, reverse=True) for row in _rows(width, found.widths[width])
        ],
        "absent": {},
        "recommendation": {
            "configuration": f"{widest} {'adapted' if verdict.is_adopted else 'base'}",
            "reason": f"{reason}; {verdict.note}",
            "toml": block,
            "front": [],
        },
    }


def _rows(width: int, found: Comparison) -> list[dict[str, Any]]:
    """Both models at a width, with the keys of an evaluation's configuration."""
    without = dict.fromkeys(
        ["table_bytes", "index_bytes", "p50_ms", "p95_ms", "queries_per_second", "recall_at_10", "rerank_seconds"]
    )
    base, adapted = ({name: round(value, 4) for name, value in means.items()} for means in found.means)
    return [
        {"name": f"{width} base", "width": width, **base, "difference": None, "beyond_chance": False, **without},
        {"name": f"{width} adapted", "width": width, **adapted, **_difference(found), **without},
    ]


def _difference(found: Comparison) -> dict[str, Any]:
    gain = found.difference
    rounded = {name: round(value, 4) for name, value in asdict(gain).items()}
    return {"difference": rounded, "beyond_chance": gain.is_beyond_chance}


def _queries(found: Outcome) -> pl.DataFrame:
    """Measures of every test query by both models."""
    frames = [
        frame.select(pl.lit(f"{width} {name}").alias("configuration"), pl.all())
        for width, comparison in found.widths.items()
        for name, frame in (("base", comparison.base), ("adapted", comparison.adapted))
    ]
    return pl.concat(frames)


def _worst(found: Outcome) -> dict[str, list[report.Lost]]:
    """The queries that lose most, by width."""
    texts = found.test.questions.texts
    return {
        f"{width} adapted": report.lost(comparison.base, comparison.adapted, texts)
        for width, comparison in found.widths.items()
    }


def _record(found: Outcome, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What ``adapt.json`` says: everything that a later reader needs to tell how the model was made."""
    base = found.base
    return {
        "parent": {"name": base.settings.name, "revision": base.revision, "digest": base.checkpoint.digest},
        "index": {"name": found.settings.index.name, "epoch": found.published.epoch.number},
        "recipe": found.settings.model_dump(
            mode="json", include={"split", "filter", "negatives", "train", "merge", "gates"}
        ),
        "sources": sorted({pair.source for pair in found.pairs}),
        **{key: summary[key] for key in ("status", "refusals", "pairs", "notes", "share", "validation", "guard")},
        "widths": [row for row in summary["configurations"] if row["difference"] is not None],
    }


def _block(found: Outcome, path: Path) -> str:
    """The section that names the adapted model: ``[model]`` to index with, ``[reranker]`` to search with."""
    base: Configured[Any] = found.base
    settings = model_settings(found.settings, base, path)
    digests = {name: checkpoint.file_digest(path / name) for name in weights.files(path)}
    given = settings.model_copy(update={"sha256": digests}).model_dump(exclude_defaults=True)
    return section("reranker" if isinstance(base, Reranker) else "model", given)


def _card(found: Outcome, folder: PutOnceFolder) -> str:
    """The model card."""
    base, settings = found.base, found.settings
    kept = trained(found.pairs)
    negatives = sum(len(pair.negatives) for pair in kept)
    data = (
        f"Trained from `{base.settings.name}` (weights {base.checkpoint.digest}) on {len(kept):,} pairs "
        f"({', '.join(sorted({pair.source for pair in kept}))}) of epoch {found.published.epoch.number} of the index "
        f"`{settings.index.name}`, with {negatives:,} hard negatives found by the index."
    )
    is_reranker = isinstance(base, Reranker)
    what = "yes or no in the prompt of the base" if is_reranker else f"InfoNCE ({settings.train.loss}) at every width"
    rank = settings.train.lora_rank
    trained_weights = f"low-rank updates of rank {rank}" if rank else "all weights"
    if settings.train.frozen_embeddings and not rank:
        trained_weights += " but the table of token vectors"
    recipe = (
        f"{settings.train.steps} steps of {settings.train.batch} pairs, learning rate "
        f"{settings.train.learning_rate:g}, {what}, {trained_weights}; "
        f"{settings.train.checkpoints} checkpoints merged by spherical interpolation, then {found.share:g} of "
        "them with the base."
    )
    lines = [
        "---",
        f"base_model: {json.dumps(base.settings.name)}",
        f"pipeline_tag: {'text-ranking' if is_reranker else 'sentence-similarity'}",
        "---",
        f"# {Path(base.settings.name).name}, adapted to the index {settings.index.name}",
        "",
        data,
        "",
        recipe,
        "",
        "nDCG@10 on the test queries, whose documents were in no training pair:",
        "",
        "| width | base | adapted | difference (95 %) |",
        "| ---: | ---: | ---: | ---: |",
        *(_card_row(width, found.widths[width]) for width in sorted(found.widths, reverse=True)),
        "",
        *(f"- {count:,} {name}" for name, count in json.loads(folder.get(NOTES)).items()),
    ]
    return "\n".join(lines) + "\n"


def _card_row(width: int, found: Comparison) -> str:
    base, adapted = found.means
    return f"| {width} | {base[NDCG]:.4f} | {adapted[NDCG]:.4f} | {found.difference} |"
