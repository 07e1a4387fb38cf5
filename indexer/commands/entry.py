"""Begin and end of a process: which command, its exit status, one line about an error.

Nothing here or imported here needs a package that is to be installed: a missing one is told in one line too.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from indexer.errors import IndexerError, missing_package
from indexer.progress import say

INTERRUPTED = 130
"""Exit status after SIGINT or SIGTERM (128 + SIGINT, the shell's convention)."""


def start(name: str) -> NoReturn:
    """Runs a command to its exit status.

    Args:
        name: The command, named like its module of this package.
    """
    # Imports of a command take seconds, and may fail: import only this one, where errors are told.
    execute(lambda: importlib.import_module(f"indexer.commands.{name}").main())


def execute(main: Callable[[], None]) -> NoReturn:
    """Runs a command to its exit status: 0 done, 1 failed, 2 unusable settings or corpus, 3 refused, 130 interrupted.

    SIGTERM ends it like Ctrl-C: staged work stays staged, and workers are stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except IndexerError as error:
        say(f"error: {error}", "ERROR")
        sys.exit(error.exit_code)
    except ImportError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        say(f"error: {missing}", "ERROR")
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to resume")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has closed it: discard the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
