"""Charts of a result: rate by contender and length, model FLOPs utilisation, the job's time by stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

mpl.use("Agg")

OURS = "#1f6f8b"

OTHERS = "#c9c9c9"

OUR_NAMES = {"engine", "one_worker", "floor", "job"}


def draw(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Writes the charts of a result of contenders, of the host or of storage.

    ``<name>-throughput.png``, ``<name>-mfu.png`` and, for whole jobs, ``<name>-stages.png``; or ``<name>.png``.
    """
    if "searching" in result:
        _searches(result, folder / f"{name}.png")
        return
    if "costs" in result:
        _host(result, folder / f"{name}.png")
        return
    _bars(result, "tokens_per_second", "tokens/s", folder / f"{name}-throughput.png")
    _bars(result, "mfu", f"share of the measured {result['dtype']} matrix rate", folder / f"{name}-mfu.png")
    _stages(result, folder / f"{name}-stages.png")


def _host(result: Mapping[str, Any], path: Path) -> None:
    """Microseconds per token by stage of a worker, beside a GPU's time for it."""
    canvas, axis = pyplot.subplots(figsize=(9, 1 + 0.6 * len(result["costs"])))
    palette = mpl.color_sequences["tab20"]
    for length, cost in zip(result["engine_us"]["packed"], result["costs"], strict=True):
        label = f"{cost['tokens']:.0f} tokens"
        left = 0.0
        stages = cost["worker_us"] | {"engine": result["engine_us"]["packed"][length]}
        for at, (stage, value) in enumerate(stages.items()):
            axis.barh(label, value / cost["tokens"], left=left, color=palette[at], label=f"worker: {stage}")
            left += value / cost["tokens"]
        axis.plot(cost["gpu_us"]["0.6B"] / cost["tokens"], label, "k|", markersize=12, label="an H200, by arithmetic")
    _finish(canvas, axis, "microseconds per token", path)


def _searches(result: Mapping[str, Any], path: Path) -> None:
    """Recall against latency, by type of index, width and size."""
    canvas, axis = pyplot.subplots(figsize=(9, 4.5))
    kinds = list(dict.fromkeys(case["index"] for case in result["searching"]))
    for case in result["searching"]:
        colour = mpl.color_sequences["tab10"][kinds.index(case["index"])]
        axis.scatter(case["p50_ms"], case["recall_at_10"], color=colour, label=case["index"])
        note = f"{case['rows'] // 1000}k x {case['width']}" + (" f16" if case["precision"] == "float16" else "")
        axis.annotate(
            note, (case["p50_ms"], case["recall_at_10"]), fontsize=6, xytext=(3, 3), textcoords="offset points"
        )
    axis.set_xscale("log")
    axis.set_ylabel("recall at 10", fontsize=8)
    _finish(canvas, axis, "milliseconds of a search, median", path)


def _bars(result: Mapping[str, Any], figure: str, label: str, path: Path) -> None:
    """One figure of every contender, one pair of axes per kind of lengths."""
    runs = result["runs"]
    canvas, axes = pyplot.subplots(1, len(runs), figsize=(1.5 + 4.5 * len(runs), 4), squeeze=False)
    for axis, (title, run) in zip(axes[0], runs.items(), strict=True):
        shown = {name: row[figure] for name, row in run["contenders"].items() if row.get(figure) is not None}
        colours = [OURS if name in OUR_NAMES else OTHERS for name in shown]
        bars = axis.barh(list(shown), list(shown.values()), color=colours)
        axis.bar_label(bars, fmt="{:.0%}" if figure == "mfu" else "{:,.0f}", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(label, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)


def _stages(result: Mapping[str, Any], path: Path) -> None:
    """One bar for the run's own stages; one for its workers' stages, which overlap, summed over all workers."""
    runs = {name: run["contenders"]["job"]["stages"] for name, run in result["runs"].items() if _has_job(run)}
    if not runs:
        return
    canvas, axis = pyplot.subplots(figsize=(9, 1 + 0.8 * len(runs)))
    palette = mpl.color_sequences["tab20"]
    names = list(dict.fromkeys(stage for stages in runs.values() for stage in stages))
    for title, stages in runs.items():
        for prefix, label in (("", "run"), ("worker: ", "workers")):
            left = 0.0
            for stage, seconds in stages.items():
                if stage.startswith("worker: ") != bool(prefix):
                    continue
                key = stage.removeprefix("worker: ")
                colour = palette[names.index(stage) % len(palette)]
                axis.barh(f"{title}: {label}", seconds, left=left, color=colour, label=f"{label}: {key}")
                left += seconds
    axis.invert_yaxis()
    _finish(canvas, axis, "seconds", path)


def _finish(canvas: Any, axis: Any, label: str, path: Path) -> None:
    """Legend, label and file of a chart with one pair of axes."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), fontsize=7, ncols=2, bbox_to_anchor=(1, 1), loc="upper left")
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)


def _has_job(run: Mapping[str, Any]) -> bool:
    """Whether a run has the job's time by stage."""
    return "stages" in run["contenders"].get("job", {})
