"""Detectors converted for this machine, kept so that they are converted once."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from saccade.config import DetectorConfig
from saccade.model import DetectorModel


def cache_folder() -> Path:
    """Where converted detectors are: ``SACCADE_CACHE``, or where the system keeps caches."""
    if "SACCADE_CACHE" in os.environ:
        return Path(os.environ["SACCADE_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "saccade"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "saccade"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saccade"


def converted(key: str, write: Callable[[Path], Path]) -> Path:
    """The file that `write` makes in the folder it is given, now or an earlier time.

    Args:
        key: Says everything that the file depends on; see `key_of`.
        write: Returns the file.
    """
    folder = cache_folder() / key
    if not folder.exists():
        print(f"converting the detector, once; it is kept in {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beginning:
            whole = Path(beginning) / "whole"
            whole.mkdir()
            (whole / "name").write_text(write(whole).name, "utf-8")
            try:
                # All of it at once, so that another process sees either nothing or everything.
                whole.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
    return folder / (folder / "name").read_text("utf-8")


def key_of(config: DetectorConfig, model: DetectorModel, *more: str | bytes) -> str:
    """A detector, what converts it, and `more`, as one number."""
    digest = hashlib.sha256()
    for part in (repr(config), *map(_version, ("saccade", "torch", "openvino", "nncf")), *more):
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    # A version number does not tell one commit's way of converting from the next one's.
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
