"""Weights of a checkpoint by the names of its own files: taken from a trained model, merged, written beside the rest.

A directory of weights mirrors the base: the same safetensors files, the same tensor names, float32.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.adapting.merging import mean, slerp
from indexer.errors import IndexerError

if TYPE_CHECKING:
    import torch

WEIGHTS = ".safetensors"

CARD = "README.md"

Places = Mapping[tuple[str, str], str]
"""Name of a parameter by file and tensor name of the checkpoint."""


def places(base: str, parameters: Mapping[str, "torch.Tensor"]) -> Places:
    """Finds which parameter of a loaded model is which tensor of its checkpoint.

    Libraries put prefixes before a checkpoint's names and drop others, so that names are compared from their end. The
    values decide: both must be equal.

    Args:
        base: Directory of the checkpoint.
        parameters: Parameters of the model just loaded from it in float32, by name.

    Returns:
        Names of parameters. Tensors that the model does not load, such as a head, are left out.

    Raises:
        IndexerError: No tensor is found: what is trained could not be written back.
    """
    found: dict[tuple[str, str], str] = {}
    for file in files(base):
        for name, tensor in _tensors(Path(base) / file):
            alike = [key for key in parameters if _is_like(key, name) and parameters[key].shape == tensor.shape]
            likeliest = sorted(alike, key=lambda key: -_common(key, name))
            same = next((key for key in likeliest if _equal(parameters[key], tensor)), None)
            if same is not None and tensor.is_floating_point():
                found[file, name] = same
    if not found:
        raise IndexerError(f"none of the weights in {base} is one of the loaded model's, so nothing could be written")
    return found


def files(directory: str | Path) -> list[str]:
    """Names of a checkpoint's safetensors files, sorted."""
    root = Path(directory)
    return sorted(str(file.relative_to(root)) for file in root.rglob(f"*{WEIGHTS}"))


def save(directory: Path, known: Places, parameters: Mapping[str, "torch.Tensor"]) -> None:
    """Writes weights in float32 under the base's names.

    Args:
        directory: Made if missing.
        known: As :func:`places` gives them.
        parameters: The model's parameters now.
    """
    from safetensors.torch import save_file

    by_file: dict[str, dict[str, Any]] = {}
    for (file, name), key in known.items():
        # Tied weights may be two names of a checkpoint; safetensors refuses shared memory.
        by_file.setdefault(file, {})[name] = parameters[key].detach().float().cpu().clone().contiguous()
    for file, tensors in by_file.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(directory / file), metadata={"format": "pt"})


def load(directory: Path, known: Places, parameters: Mapping[str, "torch.Tensor"]) -> None:
    """Reads weights that :func:`save` wrote into a model, in place."""
    import torch

    with torch.no_grad():
        for file in files(directory):
            for name, tensor in _tensors(directory / file):
                if (file, name) in known:
                    parameters[known[file, name]].copy_(tensor)


def write_merged(base: str, checkpoints: Sequence[Path], share: float, dtype: str, target: Path) -> None:
    """Writes the base's directory with merged weights: every file byte for byte but the safetensors.

    Args:
        base: Directory of the base.
        checkpoints: Directories of trained weights, at least one unless the share is 0.
        share: Share of the merged checkpoints; 0 gives the base bit for bit.
        dtype: ``float32``, ``bfloat16``, or ``auto`` for the base's own.
        target: Directory to write, which must not exist.

    Raises:
        IndexerError: The disk refuses.
    """
    try:
        target.mkdir(parents=True)
        kept = share == 0 and dtype == "auto"
        for file in sorted(Path(base).rglob("*")):
            if file.is_file() and (kept or file.suffix != WEIGHTS):
                place = target / file.relative_to(base)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        if not kept:
            for name in files(base):
                _write_file(Path(base) / name, [one / name for one in checkpoints], share, dtype, target / name)
    except OSError as error:
        raise IndexerError(f"cannot write the model: {error.strerror}") from None


def _write_file(base: Path, checkpoints: Sequence[Path], share: float, dtype: str, target: Path) -> None:
    """Merges one safetensors file; what was not trained stays as it is."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    opened: list[Any] = [safe_open(str(file), framework="pt") for file in checkpoints if file.is_file()]
    merged = {}
    with safe_open(str(base), framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118  # safetensors' file is no mapping
            tensor = stream.get_tensor(name)
            wanted = tensor.dtype if dtype == "auto" else getattr(torch, dtype)
            trained = [file.get_tensor(name) for file in opened if name in file.keys()]  # noqa: SIM118
            if not tensor.is_floating_point():
                merged[name] = tensor
            else:
                now = slerp(tensor, mean(trained), share) if trained else tensor
                merged[name] = now.to(wanted).contiguous().clone()
        metadata = stream.metadata()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(merged, str(target), metadata=metadata)


def _tensors(file: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Tensors of a safetensors file with their names."""
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118
            yield name, stream.get_tensor(name)


def _is_like(key: str, name: str) -> bool:
    """Whether two dotted names end alike, in their last two parts at least, or as far as the shorter one goes."""
    return _common(key, name) >= min(2, key.count(".") + 1, name.count(".") + 1)


def _common(key: str, name: str) -> int:
    """Number of parts, from the end, that two dotted names share."""
    pairs = zip(reversed(key.split(".")), reversed(name.split(".")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _equal(ours: "torch.Tensor", theirs: "torch.Tensor") -> bool:
    import torch

    return bool(torch.equal(ours.float().cpu(), theirs.float()))


def remove(directory: Path) -> None:
    """Deletes a directory of weights."""
    shutil.rmtree(directory, ignore_errors=True)
