"""Reads a checkpoint's own conventions: pooling, layers behind it, prompts, length, lower case.

sentence-transformers defines the files: ``modules.json``, ``config.json`` of the pooling and of Dense layers,
``sentence_bert_config.json`` and ``config_sentence_transformers.json``. A convention that vLLM leaves out is refused by
name, since the vectors would be another model's.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import SettingsError
from indexer.inference import late_interaction
from indexer.inference.late_interaction import LateInteraction

QWEN3_PROMPT = re.compile(r"Instruct: (.*)\nQuery:", re.DOTALL)
"""Qwen3-Embedding's prompt for queries with the task in it; there is no space after the second colon."""

LENGTH_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

NO_LENGTH = 1_000_000
"""A tokenizer's ``model_max_length`` of this or more means no limit."""

POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}

VLLM_POOLINGS = {"cls": "CLS", "mean": "MEAN", "lasttoken": "LAST"}
"""vLLM's names of its poolings."""

VLLM_ACTIVATIONS = frozenset({"Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid"})
"""Activations of Dense layers that vLLM supports."""

WITHOUT_EFFECT = frozenset({"Dropout"})
"""Modules that have an effect only in training."""

KNOWN = WITHOUT_EFFECT | {"Transformer", "Pooling", "Dense", "Normalize"}

ORDER = re.compile("Transformer > Pooling( > Dense)*( > Normalize)?")

PACKAGES = ("sentence_transformers.models.", "sentence_transformers.base.modules.", "sentence_transformers.sentence_")
"""Packages of modules that are not the checkpoint's own code."""


@dataclass(frozen=True)
class Dense:
    """A layer behind the pooling.

    Attributes:
        folder: Its folder in the checkpoint.
        width: Components it gives.
        activation: Name of the activation after it.
    """

    folder: str
    width: int
    activation: str


@dataclass(frozen=True)
class Conventions:
    """Conventions of a checkpoint.

    Attributes:
        pooling: ``cls``, ``mean`` or ``lasttoken``; ``None`` if not given, so that vLLM decides by architecture.
        pools_prompt: Whether the pooling includes the prompt's tokens.
        dense: Layers behind the pooling.
        is_standard: Whether its only modules are a transformer, a pooling in ``1_Pooling`` and a normalisation, or it
            lists none.
        max_tokens: Cap on a text's tokens, special tokens included; ``None`` if not given.
        is_strict: Whether ``max_tokens`` is more than the tokenizer's own limit, which a setting may exceed.
        lower_case: Whether texts are made lower case.
        query_prompt: Text before a query; ``None`` if not given.
        document_prompt: Text before a document.
        late_interaction: Conventions of a model with a vector of every token; ``None`` for all others.
    """

    pooling: str | None = None
    pools_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    is_standard: bool = True
    max_tokens: int | None = None
    is_strict: bool = False
    lower_case: bool = False
    query_prompt: str | None = None
    document_prompt: str = ""
    late_interaction: LateInteraction | None = None

    @property
    def modules(self) -> str:
        """The modules in one line, e.g. ``mean > Dense 64 Tanh``."""
        if self.late_interaction is not None:
            return f"a vector of {self.late_interaction.dimension} components of every token"
        layers = (f"Dense {layer.width} {layer.activation}" for layer in self.dense)
        return " > ".join([self.pooling or "pooling of the architecture", *layers])

    def check_prompts(self, *prompts: str) -> None:
        """Refuses prompts whose tokens a mean must leave out, which vLLM cannot; other poolings do not need that.

        Raises:
            SettingsError: One is not empty and the checkpoint pools by the mean of the text's own tokens.
        """
        if any(prompts) and self.pooling == "mean" and not self.pools_prompt:
            raise _refused("a mean without the prompt's tokens (include_prompt = false)")


def read(path: str) -> Conventions:
    """Reads a checkpoint's conventions.

    Args:
        path: Directory of the checkpoint.

    Raises:
        SettingsError: vLLM leaves one of them out; the message names it.
    """
    root = Path(path)
    late = late_interaction.read(root, (_json(root / "config.json") or {}).get("architectures") or [])
    if late is not None:
        # The checkpoint may have sentence-transformers' files as well: they tell of another library's layers.
        return Conventions(is_standard=False, max_tokens=late.document_tokens, late_interaction=late)
    prompts = _json(root / "config_sentence_transformers.json") or {}
    modules = _json(root / "modules.json") or []
    pooling, dense = _modules(root, modules, str(prompts.get("similarity_fn_name") or "cosine"))
    query, document = _prompts(prompts.get("prompts"))
    limit, is_strict, lower = _length(root)
    return Conventions(
        pooling=None if pooling is None else _pooling(pooling),
        pools_prompt=pooling is None or bool(pooling.get("include_prompt", True)),
        dense=dense,
        is_standard=not dense and (not modules or _folder(modules) == "1_Pooling"),
        max_tokens=limit,
        is_strict=is_strict,
        lower_case=lower,
        query_prompt=query,
        document_prompt=document,
    )


def _modules(root: Path, modules: Sequence[dict[str, Any]], similarity: str) -> tuple[Any, tuple[Dense, ...]]:
    """The pooling's configuration and the Dense layers, in the only order that vLLM supports."""
    if not modules:
        return None, ()
    for module in modules:
        if not str(module["type"]).startswith(PACKAGES) or _name(module) not in KNOWN:
            raise _refused(f"module {module['type']}")
    chain = [(_name(module), str(module["path"])) for module in modules if _name(module) not in WITHOUT_EFFECT]
    order = " > ".join(name for name, _ in chain)
    if not ORDER.fullmatch(order) or chain[0][1]:
        raise _refused(f"the modules {order} in this order")
    if not order.endswith("Normalize") and similarity != "cosine":
        raise _refused(f"similarity {similarity} of vectors that are not normalised")
    pooling = _json(root / chain[1][1] / "config.json") or {}
    return pooling, tuple(_dense(root, folder) for name, folder in chain if name == "Dense")


def _name(module: dict[str, Any]) -> str:
    """Class name of a module."""
    return str(module["type"]).rsplit(".", 1)[-1]


def _folder(modules: Sequence[dict[str, Any]]) -> str:
    """Folder of the pooling."""
    return next(str(module["path"]) for module in modules if str(module["type"]).endswith(".Pooling"))


def _pooling(config: dict[str, Any]) -> str:
    """The pooling; sentence-transformers uses the mean if none is named."""
    given = config.get("pooling_mode") or [mode for key, mode in POOLINGS.items() if config.get(key)] or "mean"
    modes = [given] if isinstance(given, str) else list(given)
    if len(modes) != 1 or modes[0] not in VLLM_POOLINGS:
        raise _refused(f"pooling {' and '.join(modes)}")
    return str(modes[0])


def _dense(root: Path, folder: str) -> Dense:
    """Reads a Dense layer; refuses one that vLLM would compute differently."""
    config = _json(root / folder / "config.json") or {}
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh (the default)"))
    activation = name.rsplit(".", 1)[-1]
    if not name.startswith("torch.nn.modules.") or activation not in VLLM_ACTIVATIONS:
        raise _refused(f"activation {name} of the Dense layer in folder {folder!r}")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise _refused(f"the residual or other input of the Dense layer in folder {folder!r}")
    if not (root / folder / "model.safetensors").is_file():
        raise _refused(f"the Dense layer in folder {folder!r}, which has no safetensors weights")
    return Dense(folder, int(config["out_features"]), activation)


def _prompts(prompts: dict[str, str | None] | None) -> tuple[str | None, str]:
    """The prompts for queries and documents, chosen like ``encode_query`` and ``encode_document`` do.

    For documents ``document`` comes before ``passage``; without either the prompt is empty.
    """
    given = prompts or {}
    return given.get("query"), given.get("document") or ""


def _length(root: Path) -> tuple[int | None, bool, bool]:
    """Cap on the tokens, whether it is sentence-transformers' own limit, and whether texts are made lower case."""
    for name in LENGTH_FILES:
        config = _json(root / name)
        if config:
            length = config.get("max_seq_length")
            if length:
                return int(length), True, bool(config.get("do_lower_case"))
            return _tokenizer_length(root), False, bool(config.get("do_lower_case"))
    return _tokenizer_length(root), False, False


def _tokenizer_length(root: Path) -> int | None:
    """The tokenizer's own limit, ``None`` if it has none."""
    config = _json(root / "tokenizer_config.json") or {}
    length = int(config.get("model_max_length") or NO_LENGTH)
    return length if length < NO_LENGTH else None


def _json(file: Path) -> Any:
    """Content of a JSON file, ``None`` if it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _refused(what: str) -> SettingsError:
    """The error for a convention that vLLM leaves out."""
    return SettingsError(
        f"model.name: the checkpoint wants {what}; vLLM leaves that out, so its vectors would be wrong"
    )
