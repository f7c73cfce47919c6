"""Run a repository's script unmodified, with the extension that it imports in place.

``python -m saccade.compat main.py --its --arguments`` is ``python main.py --its --arguments`` after
``install_extension()``. Every Python process that the script starts finds the module
``MultiScaleDeformableAttention`` too: workers of a DataLoader, ``torch.multiprocessing.spawn``,
``torchrun``. What is part of a package, such as ``mmcv._ext``, only forked processes find; for
others call ``install_extension()`` at the top of the script.
"""

import os
import runpy
import sys
from pathlib import Path

from .extension import install_extension

_ON_PATH = str(Path(__file__).parent / "on_path")


def main() -> None:
    """Run the script named first on the command line; what follows are its arguments.

    Exit status: that of the script; 2 if there is no such script.
    """
    script = sys.argv[1] if len(sys.argv) > 1 else "no script"
    if not Path(script).is_file():
        print(
            f"python -m saccade.compat: {script} was given but the path of a Python script is "
            "expected; put it first and its arguments behind it.",
            file=sys.stderr,
        )
        sys.exit(2)
    install_extension()
    del sys.argv[0]
    # As for any script: its neighbours can be imported.
    sys.path[0] = str(Path(script).resolve().parent)
    # After the installation, which would take this for a compiled extension. multiprocessing hands
    # sys.path down to the processes that it spawns, other programs the environment.
    sys.path.insert(1, _ON_PATH)
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([_ON_PATH, others] if others else [_ON_PATH])
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
