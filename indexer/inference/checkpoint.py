"""The model's files: finds, checks and digests them."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from indexer.errors import SettingsError, first_line
from indexer.inference import conventions
from indexer.inference.conventions import Conventions
from indexer.inference.late_interaction import METADATA
from indexer.steps import step

FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*/config.json", "*/model.safetensors", METADATA)
"""Files fetched from a hub repository: configuration, tokenizer and weights, never code or pickled weights."""


@dataclass(frozen=True)
class Checkpoint:
    """A model on local disk.

    Attributes:
        name: Hub id or directory as configured.
        revision: Commit of a hub model, ``None`` for a local directory.
        path: Directory with the files.
    """

    name: str
    revision: str | None
    path: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of ``config.json``."""
        return dict(json.loads((Path(self.path) / "config.json").read_text(encoding="utf-8")))

    @cached_property
    def conventions(self) -> Conventions:
        """The checkpoint's conventions for use as an embedding model.

        Raises:
            SettingsError: It needs something that vLLM leaves out.
        """
        return conventions.read(self.path)

    @property
    def dimension(self) -> int:
        """Native width of the vectors: of a token, or the last Dense layer's width, otherwise ``hidden_size``."""
        late, dense = self.conventions.late_interaction, self.conventions.dense
        if late is not None:
            return late.dimension
        return dense[-1].width if dense else int(self.config["hidden_size"])

    @property
    def positions(self) -> int | None:
        """Most tokens for which the model has positions; ``None`` if it scales them or does not say."""
        most = self.config.get("max_position_embeddings")
        if most is None or self.config.get("rope_scaling"):
            return None
        # RoBERTa counts from behind the padding token's place.
        is_roberta = "roberta" in str(self.config.get("model_type"))
        return int(most) - (int(self.config.get("pad_token_id") or 0) + 1 if is_roberta else 0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights' files."""
        return sum(file.stat().st_size for file in Path(self.path).glob("*.safetensors"))

    @cached_property
    def digest(self) -> str:
        """Digest of weights and pooling: the commit of a hub model, otherwise the files' content."""
        if self.revision is not None:
            return self.revision
        root = Path(self.path)
        layers = [root / layer.folder / "model.safetensors" for layer in self.conventions.dense]
        files = sorted({*root.glob("*.safetensors"), *root.glob("*/config.json"), root / "config.json", *layers})
        with ThreadPoolExecutor() as threads:
            digests = threads.map(file_digest, files)
            parts = [f"{file.relative_to(root)}:{digest}" for file, digest in zip(files, digests, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def resolve(name: str, revision: str | None) -> Checkpoint:
    """Finds a model, fetching it from the hub when ``name`` is not a directory.

    Args:
        name: Hub id or local directory.
        revision: Branch, tag or commit on the hub; must be ``None`` for a directory.

    Returns:
        The checkpoint, its revision resolved to a commit.

    Raises:
        SettingsError: No such model, no ``config.json``, no safetensors weights, or a revision of a directory.
    """
    directory = Path(name).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise SettingsError("model.revision is for hub models; model.name is a directory")
        return _checked(Checkpoint(name, None, str(directory.resolve())))
    return _checked(_fetch(name, revision))


def check_files(checkpoint: Checkpoint, sha256: Mapping[str, str]) -> None:
    """Compares files with their recorded digests.

    Args:
        checkpoint: The model.
        sha256: Hexadecimal SHA-256 by the file's name in the checkpoint.

    Raises:
        SettingsError: A file is missing or has another digest.
    """
    for name, recorded in sha256.items():
        file = Path(checkpoint.path) / name
        if not file.is_file():
            raise SettingsError(f"model.sha256: {checkpoint.name!r} has no file {name}")
        with step(f"checking {name}"):
            found = file_digest(file)
        if found != recorded.lower():
            raise SettingsError(f"model.sha256: {name} of {checkpoint.name!r} is {found}, not {recorded}")


def _fetch(name: str, revision: str | None) -> Checkpoint:
    """Fetches a model from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with step("fetching the model from the hub"):
            path = snapshot_download(name, revision=revision, allow_patterns=list(FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"model.name: {name!r} is neither a directory nor a model the hub gives: {first_line(error)}"
        ) from None
    return Checkpoint(name, Path(path).name, path)


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """Refuses a directory that holds no usable model."""
    root = Path(checkpoint.path)
    if not (root / "config.json").is_file():
        raise SettingsError(f"model.name: {checkpoint.name!r} has no config.json")
    if not any(root.glob("*.safetensors")):
        raise SettingsError(f"model.name: {checkpoint.name!r} has no safetensors weights; other formats are not loaded")
    if "hidden_size" not in checkpoint.config:
        raise SettingsError(f"model.name: config.json of {checkpoint.name!r} names no hidden_size")
    return checkpoint


def file_digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_unbounded(path: str) -> bool:
    """Whether a cross-encoder returns logits, by sentence-transformers' convention in ``config.json``."""
    return "torch.nn.modules.linear.Identity" in (Path(path) / "config.json").read_text(encoding="utf-8")
