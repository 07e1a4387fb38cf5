"""What `.ci/install.sh cuda` looks for before it installs anything: driver, compiler, Python's headers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "install.sh"

STOPPED = 7
"""Exit status of the stand-in for Python where it is asked for an environment: nothing is installed here."""

PYTHON = f"""#!/bin/sh
case "$*" in
  *venv*) exit {STOPPED} ;;
  *Python.h*) exit ${{NO_HEADERS:-0}} ;;
  -V) echo Python 3.12.1 ;;
esac
"""


def installed(folder: Path, driver: str | None, **environment: str) -> tuple[int, str]:
    """Exit status and standard error of an installation on a machine with this driver; ``None`` has no nvidia-smi."""
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci")
    programs = folder / "bin"
    programs.mkdir()
    scripts = {"python": PYTHON} | ({} if driver is None else {"nvidia-smi": f"#!/bin/sh\necho '{driver}'\n"})
    for name, text in scripts.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    given = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": str(programs / "python"), "CC": "sh"}
    command = ["bash", str(folder / ".ci" / "install.sh"), "cuda"]
    done = subprocess.run(command, env=given | environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("driver", ["580.65.06", "590.1", "1000.2"])
def test_a_machine_with_everything_is_accepted(tmp_path: Path, driver: str) -> None:
    assert installed(tmp_path, driver) == (STOPPED, "")


@pytest.mark.parametrize("driver", ["570.133.20", "NVIDIA-SMI has failed because it could not communicate", ""])
def test_an_older_driver_is_refused_and_quoted(tmp_path: Path, driver: str) -> None:
    status, said = installed(tmp_path, driver)
    assert status == 1
    assert f"an NVIDIA driver of version 580 or later; nvidia-smi says: {driver or 'nothing'}" in said


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has nvidia-smi")
def test_a_machine_without_nvidia_smi_is_only_told(tmp_path: Path) -> None:
    status, said = installed(tmp_path, None)
    assert status == STOPPED
    assert "needs an NVIDIA driver of version 580" in said


def test_what_is_missing_is_named_together(tmp_path: Path) -> None:
    status, said = installed(tmp_path, "570.1", CC="no-such-compiler", NO_HEADERS="1")
    assert status == 1
    lines = [line for line in said.splitlines() if line.startswith("  - ")]
    assert [line.split()[1] for line in lines] == ["an", "a", "Python.h"]
    assert "no-such-compiler is not there (package gcc)" in said
    assert "Python.h of Python 3.12.1 (package python3-dev" in said
