"""What the command `saccade serve` does."""

import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from saccade.serve.access import is_loopback, read_access
from saccade.serve.arguments import ServeArguments
from saccade.serve.naming import name_models

if TYPE_CHECKING:
    from saccade.serve.served import Look, LookFromPixel, Served

BACKLOG = 2048
"""Connections that the system keeps until they are accepted; as uvicorn's."""

EXTRA = ("fastapi", "starlette", "pydantic", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    arguments: ServeArguments,
    open_model: "Callable[[str, str], Served]",
    look: "Look",
    look_from_pixel: "LookFromPixel",
) -> int:
    """Serve until a signal ends it.

    Args:
        arguments: The command's.
        open_model: Makes a model of its name and its weights.
        look: See `saccade.serve.app.create_app`.
        look_from_pixel: See there.

    Returns:
        The exit status: 0 after all that was accepted has been answered.

    Raises:
        ValueError: If a model cannot be opened, or the extra is missing.
        OSError: If the address cannot be listened at.
    """
    named = name_models(arguments.models)
    access = read_access(arguments)
    try:
        import torch

        from saccade.serve.app import create_app
        from saccade.serve.server import run
        from saccade.serve.warming import warm_up
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        raise ValueError(
            f"serving needs {error.name}, which is not installed: pip install 'saccade[serve]'"
        ) from error
    # First, since a port that is taken is told at once, and models take seconds.
    with _bind(arguments.host, arguments.port) as listener:
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        models = [open_model(name, weights) for name, weights in named.items()]
        for served in models:
            warm_up(served)
        if not is_loopback(arguments.host) and access.token is None:
            print(
                f"saccade serve: anybody who reaches {arguments.host} may ask: set a token with "
                "--token-file or SACCADE_TOKEN.",
                file=sys.stderr,
            )
        app = create_app(models, arguments.limits, access, look, look_from_pixel)
        # Whoever reads the address may connect.
        listener.listen(BACKLOG)
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        print(
            f"saccade serve: {', '.join(named)} at http://{host}:{listener.getsockname()[1]}",
            flush=True,
        )
        run(app, listener, arguments)
    return 0


def _bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet: nobody should wait for models that are being opened."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if sys.platform != "win32":
            # Elsewhere it would let two servers share the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen at {host}, port {port} ({error.strerror or error}): choose others with "
            "--host and --port."
        ) from error
    return listener
