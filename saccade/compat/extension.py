"""Put our operator where other repositories import the compiled extension from."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

from . import official_extension
from .mmcv_extension import StandIn

_FUNCTIONS = ("ms_deform_attn_forward", "ms_deform_attn_backward")
_OFFICIAL_NAME = "MultiScaleDeformableAttention"
_IN_PACKAGES: dict[str, ModuleType] = {
    "mmcv._ext": StandIn(),
    "groundingdino._C": official_extension,
    "detrex._C": official_extension,
}
"""Extensions that are part of a package; served where that package is at hand."""


@dataclass(frozen=True)
class _Place:
    """One extension that is served, and what was there before."""

    name: str
    module: ModuleType | None
    """The module that was given our functions; None if there was none."""
    functions: dict[str, Callable[..., object]]
    """Its own functions, as many of them as it had."""

    def restore(self) -> None:
        if self.module is None:
            sys.modules.pop(self.name, None)
            return
        for name in _FUNCTIONS:
            vars(self.module).pop(name, None)
        vars(self.module).update(self.functions)


_places: list[_Place] = []


def install_extension() -> list[str]:
    """Let repositories that import the compiled extension get this library's operator instead.

    Call it before they import it. From then on ``import MultiScaleDeformableAttention`` gives a
    module whose ``ms_deform_attn_forward`` and ``ms_deform_attn_backward`` have the signatures of
    the compiled ones, run on CPU and GPU and need nothing compiled: Deformable-DETR, DINO,
    Mask2Former, OneFormer and all that copied them run unmodified. So do BEVFormer and mmdetection
    (``mmcv._ext``, whose other functions stay as they are, or say when called that they are not
    there), GroundingDINO (``groundingdino._C``) and detrex (``detrex._C``), where those packages
    are installed.

    A module of that name that can be loaded stays and is given the two functions, in place of its
    own if it is the compiled one, also for those who imported it before. A second call changes
    nothing. ``uninstall_extension()`` brings back what was there.

    It holds for this process and those forked from it. A spawned one starts anew and runs the top
    of the script again: call it there, before the repository's imports and not under
    ``if __name__ == "__main__"``, and it holds there too. Or leave it out and run the script by
    ``python -m saccade.compat``.

    Returns:
        The names of the modules that are served.

    >>> install_extension()[0]
    'MultiScaleDeformableAttention'
    >>> from MultiScaleDeformableAttention import ms_deform_attn_forward
    >>> uninstall_extension()
    """
    if not _places:
        _places.append(_serve(_OFFICIAL_NAME, official_extension))
        for name, ours in _IN_PACKAGES.items():
            folders = _folders(name.partition(".")[0])
            if folders is not None:
                _places.append(_serve(name, ours, folders))
    return [place.name for place in _places]


def uninstall_extension() -> None:
    """Bring back what ``install_extension`` replaced; without effect if it was not called.

    Code that has imported our module in the meantime keeps it.
    """
    while _places:
        _places.pop().restore()


def _serve(name: str, ours: ModuleType, folders: list[str] | None = None) -> _Place:
    module = sys.modules.get(name) or _load(name, folders)
    if module is None:
        sys.modules[name] = ours
        return _Place(name, None, {})
    functions = {key: vars(module)[key] for key in _FUNCTIONS if key in vars(module)}
    vars(module).update({key: vars(ours)[key] for key in _FUNCTIONS})
    return _Place(name, module, functions)


def _folders(package: str) -> list[str] | None:
    """Where the parts of a package are looked for, or None if it is not there; imports nothing."""
    if package in sys.modules:
        folders = getattr(sys.modules[package], "__path__", None)
    else:
        spec = find_spec(package)
        folders = None if spec is None else spec.submodule_search_locations
    return None if folders is None else list(folders)


def _load(name: str, folders: list[str] | None) -> ModuleType | None:
    """The module of that name, loaded without the package that it is part of.

    None if there is none, or it cannot be imported, as when compiled for another torch.
    """
    spec = PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:
        return None
    try:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    sys.modules[name] = module
    return module
