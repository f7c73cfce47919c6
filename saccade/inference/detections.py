"""The type in which detections leave the library: `supervision.Detections`."""

import warnings
from types import ModuleType


def supervision() -> ModuleType:
    """The supervision package, imported when detections are made or drawn."""
    with warnings.catch_warnings():
        # It says at import that it would draw faster with OpenCV, which nobody here needs.
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        import supervision as module
    return module
