"""The engine alone: settings and lengths swept on random token ids, against Transformers and the hardware's limit.

This needs vllm, torch, transformers and numpy, but neither Ray nor LanceDB: it runs where only vLLM is installed, on
CPUs and on NVIDIA GPUs. It writes its checkpoints, with random weights in the shapes of Qwen3-Embedding.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support import machine
from benchmarks.support.flops import DTYPES, checkpoint_flops, faster, limits
from benchmarks.support.fresh_process import apart
from indexer.inference import sweep
from indexer.inference.engine_spec import EngineSpec
from indexer.inference.sequences import TokenSequences
from indexer.inference.sweep import Setting, Subject, Timing
from indexer.testing.random_weights import SMALL, TRUE_LAYERS, TRUE_SHAPES, write_weights

MAX_TOKENS = 8192

BATCH = 32

ORDINARY_TOKENS = 151643
"""Ids below are ordinary tokens of Qwen3's vocabulary; this one ends every text."""


def subject(path: str, dtype: str, length: int, tokens: int) -> Subject:
    """Sequences of one length, the end token last."""
    drawn = np.random.default_rng(length).integers(0, ORDINARY_TOKENS, (max(BATCH, tokens // length), length))
    drawn[:, -1] = ORDINARY_TOKENS
    return Subject(EngineSpec(path, dtype, MAX_TOKENS), TokenSequences.of(drawn))


def transformers(given: Subject) -> float:
    """Tokens per second of Transformers in batches of 32; equal lengths need no padding."""
    import torch
    from transformers import AutoModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModel.from_pretrained(given.spec.path, dtype=getattr(torch, given.spec.dtype)).eval().to(device)
    with torch.inference_mode():
        _last_hidden(model, given.ids[:BATCH].tolist())
        start = time.perf_counter()
        for at in range(0, len(given.ids), BATCH):
            _last_hidden(model, given.ids[at : at + BATCH].tolist())
        return given.ids.tokens / (time.perf_counter() - start)


def _last_hidden(model: Any, ids: Sequence[Sequence[int]]) -> Any:
    """Unit vectors from the last token's hidden state."""
    import torch

    hidden = model(input_ids=torch.tensor(ids, device=model.device)).last_hidden_state[:, -1]
    return torch.nn.functional.normalize(hidden.float(), dim=1).cpu()


def measure(given: Subject, limit: float) -> dict[str, Any]:
    """Sweeps the engine on one length.

    Returns:
        Every setting with its rate and model FLOPs utilisation, and the best as TOML; JSON-ready.
    """
    per_token = checkpoint_flops(given.spec.path, [len(given.ids[0])]) / len(given.ids[0])
    start, choices = sweep.machine(MAX_TOKENS)
    found: list[Timing] = []
    for measured in [
        *sweep.best(partial(sweep.measure, given), start, choices),
        sweep.measure(given, _separate(start)),
    ]:
        print(json.dumps(measured.describe()), flush=True)
        found.append(measured)
    # A separate process is only a comparison: the job never uses one.
    leader = max((one for one in found if not one.setting.separate), key=lambda measured: measured.tokens_per_second)
    baseline = apart(transformers, given)
    return {
        "length": len(given.ids[0]),
        "sequences": len(given.ids),
        "transformers_tokens_per_second": round(baseline),
        "transformers_mfu": round(baseline * per_token / limit, 4),
        "settings": [
            {**measured.describe(), "mfu": round(measured.tokens_per_second * per_token / limit, 4)}
            for measured in found
        ],
        "best": leader.setting.toml(),
        "best_over_transformers": round(leader.tokens_per_second / baseline, 3),
    }


def _separate(setting: Setting) -> Setting:
    """The setting with vLLM's core in a process of its own."""
    return replace(setting, separate=True)


def main() -> None:
    """Measures, prints and writes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--model", default="0.6B", help="small, 0.6B, 4B, 8B (random weights) or a directory")
    command.add_argument("--dtype", choices=DTYPES, help="of the model (default: the faster one on this machine)")
    command.add_argument("--lengths", type=int, nargs="+", default=[128, 512], help="tokens of the texts")
    command.add_argument("--tokens", type=int, default=100_000, help="tokens each setting is timed on")
    command.add_argument("--layers", type=int, help="layers, where the machine is too small for all")
    command.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    arguments = command.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    where = apart(machine.describe)
    with tempfile.TemporaryDirectory() as folder:
        limit = limits()
        dtype = arguments.dtype or faster(limit)
        path = _checkpoint(arguments.model, arguments.layers, dtype, Path(folder) / "model")
        runs = [measure(subject(path, dtype, length, arguments.tokens), limit[dtype]) for length in arguments.lengths]
    result = {
        "model": arguments.model,
        "dtype": dtype,
        "machine": where,
        "limit": limit,
        "runs": runs,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = f"engine-{Path(arguments.model).name}-{dtype}.json"
    (arguments.out / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for run in runs:
        print(f"# best for texts of {run['length']} tokens\n{run['best']}")
    print(json.dumps(result))


def _checkpoint(model: str, layers: int | None, dtype: str, path: Path) -> str:
    """Directory of the model; random weights are written for a known size."""
    if model == "small":
        return write_weights(path, SMALL, dtype=dtype)
    if model not in TRUE_SHAPES:
        return model
    shape = replace(TRUE_SHAPES[model], layers=layers or TRUE_LAYERS[model])
    return write_weights(path, shape, dtype=dtype)


if __name__ == "__main__":
    main()
