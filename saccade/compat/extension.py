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
    compiled: ModuleType | None
    """The compiled module whose functions were exchanged; None if there was none."""
    functions: dict[str, Callable[..., object]]
    """Its own functions."""

    def restore(self) -> None:
        if self.compiled is None:
            sys.modules.pop(self.name, None)
        else:
            vars(self.compiled).update(self.functions)


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

    A compiled module that can be loaded stays and has its two functions exchanged, also for those
    who imported it before. A second call changes nothing. ``uninstall_extension()`` brings back
    what was there.

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
    compiled = sys.modules.get(name) or _load_compiled(name, folders)
    if compiled is None:
        sys.modules[name] = ours
        return _Place(name, None, {})
    functions = {key: vars(compiled)[key] for key in _FUNCTIONS if key in vars(compiled)}
    vars(compiled).update({key: vars(ours)[key] for key in functions})
    return _Place(name, compiled, functions)


def _folders(package: str) -> list[str] | None:
    """Where the parts of a package are looked for, or None if it is not there; imports nothing."""
    if package in sys.modules:
        folders = getattr(sys.modules[package], "__path__", None)
    else:
        spec = find_spec(package)
        folders = None if spec is None else spec.submodule_search_locations
    return None if folders is None else list(folders)


def _load_compiled(name: str, folders: list[str] | None) -> ModuleType | None:
    """The compiled module of that name, loaded without the package that it is part of.

    None if there is none, or none that fits the installed torch.
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
