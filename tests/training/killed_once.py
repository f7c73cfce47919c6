"""The command, in which one process is killed before its third batch, but not when it is restarted.

Started by torchrun: ``-m tests.training.killed_once train ...``.
"""

import os
import signal
import sys

from saccade.cli import main
from saccade.launch import is_restart
from tests.training.processes import at_batch


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if not is_restart():
        at_batch(int(os.environ["RANK"]), number=3, ranks=[1], do=kill)
    sys.exit(main())
