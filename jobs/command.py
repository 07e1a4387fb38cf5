"""How every command ends: its exit status and the one line that says why."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from indexer.errors import IndexerError

INTERRUPTED = 130
"""Exit status after SIGINT or SIGTERM (128 + SIGINT, the shell's convention)."""


def execute(main: Callable[[], None]) -> NoReturn:
    """Runs a command to its exit status: 0 done, 1 failed, 2 unusable settings or corpus, 3 refused, 130 interrupted.

    SIGTERM ends it like Ctrl-C does: what is staged stays staged, and workers are stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except IndexerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
