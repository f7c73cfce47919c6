"""Who may ask, from the command line and the environment."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from saccade.serve.arguments import ServeArguments
from saccade.serve.settings import LOOPBACK, Access

TOKEN_VARIABLE = "SACCADE_TOKEN"
SHORTEST_TOKEN = 16


def read_access(arguments: ServeArguments, environment: Mapping[str, str] = os.environ) -> Access:
    """Token and names as they were asked for.

    Raises:
        ValueError: If the token is missing, too short, or no header can carry it.
    """
    hosts = tuple(host.lower() for host in arguments.allowed_hosts)
    if is_loopback(arguments.host):
        hosts = (*LOOPBACK, arguments.host.lower(), *hosts)
    return Access(token=_token(arguments.token_file, environment), hosts=hosts or None)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    if file is not None:
        source, token = str(file), file.read_text("utf-8").strip()
    elif TOKEN_VARIABLE in environment:
        source, token = TOKEN_VARIABLE, environment[TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"the token in {source} has {len(token)} characters: expected at least "
            f"{SHORTEST_TOKEN}, printable ASCII; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'."
        )
    return token
