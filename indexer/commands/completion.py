"""Completion of ``qwen3-index`` for shells: ``qwen3-index completion bash`` prints a script with every flag."""

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Mapping, Sequence

from indexer.errors import SettingsError

SHELLS = ("bash", "zsh", "fish")

FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


def main(commands: Mapping[str, str]) -> None:
    """Prints the script of the shell that the command line names.

    Args:
        commands: Every sub-command with a line of help.

    Raises:
        SettingsError: There is no such shell.
    """
    shell = sys.argv[2] if len(sys.argv) > 2 else ""  # noqa: PLR2004  # the program, "completion", the shell
    if shell not in SHELLS:
        raise SettingsError(f"completion needs the name of a shell: {', '.join(SHELLS)}")
    flags = {name: flags_of(name) for name in commands}
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](flags))


def flags_of(name: str) -> list[str]:
    """The flags that the help of a command lists."""
    shown = io.StringIO()
    before, sys.argv = sys.argv, [f"qwen3-index {name}", "--help"]
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            importlib.import_module(f"indexer.commands.{name}").main()
    finally:
        sys.argv = before
    return sorted(set(FLAG.findall(shown.getvalue())))


def _bash(flags: Mapping[str, Sequence[str]]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(known)}" ;;' for name, known in flags.items())
    return f"""_qwen3_index() {{
  local words
  case ${{COMP_WORDS[1]}} in
{cases}
    *) words="{" ".join(flags)}" ;;
  esac
  if [ "$COMP_CWORD" = 1 ]; then words="{" ".join(flags)}"; fi
  case ${{COMP_WORDS[COMP_CWORD]}} in
    -* | "") COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}")) ;;
    *) if [ "$COMP_CWORD" = 1 ]; then COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[1]}}")); fi ;;
  esac
}}
complete -o default -F _qwen3_index qwen3-index"""


def _zsh(flags: Mapping[str, Sequence[str]]) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(flags)}"


def _fish(flags: Mapping[str, Sequence[str]]) -> str:
    seen = "__fish_seen_subcommand_from"
    lines = [f"complete -c qwen3-index -n '__fish_use_subcommand' -f -a '{' '.join(flags)}'"]
    lines += [
        f"complete -c qwen3-index -n '{seen} {name}' -l {flag.removeprefix('--')}"
        for name, known in flags.items()
        for flag in known
    ]
    return "\n".join(lines)
