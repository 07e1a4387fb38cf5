"""Checks vLLM engine arguments by name, without importing vLLM."""

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    pass


OWNED = {
    "model": "model.name",
    "tokenizer": "model.name",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "max_model_len": "model.max_tokens",
    "runner": None,
    "convert": None,
    "load_format": None,
    "trust_remote_code": None,
    "skip_tokenizer_init": None,
    "enable_chunked_prefill": None,
    "disable_log_stats": None,
    "hf_token": "HF_TOKEN in the environment",
}
"""vLLM arguments that are ours, with the setting that stands for them where there is one."""

NOT_VLLMS = ("replicas_per_gpu", "slowest")
"""Keys of ``[engine]`` beside vLLM's arguments; where only vLLM is installed, the settings cannot be asked."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses engine arguments that vLLM does not know or that are ours.

    Args:
        arguments: vLLM engine arguments by name.

    Raises:
        SettingsError: Names the argument and what to use instead.
    """
    for name in arguments:
        if name in OWNED:
            instead = OWNED[name]
            raise SettingsError(f"engine.{name} cannot be set" + (f"; set {instead}" if instead else ""))
        if name not in argument_names():
            known = [f"engine.{argument}" for argument in (*argument_names(), *NOT_VLLMS)]
            hint = did_you_mean(f"engine.{name}", known)
            raise SettingsError(f"engine.{name} is no vLLM engine argument{hint}")


@cache
def argument_names() -> tuple[str, ...]:
    """Names of vLLM's engine arguments, read from its source: importing vLLM takes 10 s, and needs vLLM.

    Raises:
        SettingsError: vLLM is not installed.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SettingsError("vLLM is not installed; install the extra cpu or cuda")
    source = Path(spec.origin).parent / "engine" / "arg_utils.py"
    module = ast.parse(source.read_text(encoding="utf-8"))
    (args,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    return tuple(
        field.target.id
        for field in args.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )
