"""Our operator in other people's software: the compiled extension's place, transformers models."""

from .accelerate import Acceleration as Acceleration
from .accelerate import accelerate as accelerate
from .accelerate import restore as restore
from .extension import install_extension as install_extension
from .extension import uninstall_extension as uninstall_extension
