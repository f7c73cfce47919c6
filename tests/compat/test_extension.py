"""Repositories that call the compiled extension, with ours in its place.

The stand-ins call as the repositories do: Deformable-DETR, DINO and Mask2Former through
``MultiScaleDeformableAttention``, BEVFormer and mmdetection through ``mmcv._ext``.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saccade.compat import install_extension, uninstall_extension
from saccade.compat.__main__ import main as run_script
from saccade.compat.mmcv_extension import StandIn
from saccade.compat.official_extension import _numbers_kept, read_levels
from saccade.ops import ms_deform_attn_reference

from .stand_ins import COMPILED, MMCV_CALLER, MMCV_UTILS, OFFICIAL_CALLER

LEVELS = [(4, 5), (2, 3)]

Write = Callable[..., None]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = set(sys.modules)
    yield
    uninstall_extension()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("MultiScaleDeformableAttention", "mmcv", "detrex", "caller"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write modules that can be imported: their paths and their sources."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(sources: dict[str, str]) -> None:
        for path, source in sources.items():
            file = tmp_path / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(source)
        importlib.invalidate_caches()

    return write


def arguments(num_images: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(num_images, 26, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(num_images, 5, 2, 2, 4, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(num_images, 5, 2, 2, 4, generator=generator, dtype=dtype)
    return [value, torch.tensor(LEVELS), torch.tensor([0, 20]), locations, weights]


def assert_like_the_reference(attention: type[torch.autograd.Function]) -> None:
    value, shapes, starts, locations, weights = arguments()
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    expected = ms_deform_attn_reference(value, LEVELS, locations, weights)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, leaves, direction)
    # Three images in steps of two, which the compiled extension refuses.
    out = attention.apply(value, shapes, starts, locations, weights, 2)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out, leaves, direction), expected_grads)


def test_a_repository_that_imports_the_official_extension_runs(write: Write) -> None:
    write({"caller.py": OFFICIAL_CALLER})
    with pytest.raises(ModuleNotFoundError, match="MultiScaleDeformableAttention"):
        importlib.import_module("caller")
    install_extension()
    assert_like_the_reference(importlib.import_module("caller").Attention)


def test_a_script_runs_unmodified(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    script = "import sys, caller; print(__name__, sys.argv[1:], caller.extension.__name__)"
    write({"main.py": script, "caller.py": OFFICIAL_CALLER})
    monkeypatch.setattr(sys, "path", ["", *sys.path[1:]])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "argv", ["compat", str(tmp_path / "main.py"), "--lr", "1"])
    run_script()
    name = "saccade.compat.official_extension"
    assert capsys.readouterr().out == f"__main__ ['--lr', '1'] {name}\n"


SPAWNING = """
import multiprocessing
import MultiScaleDeformableAttention as extension

def work():
    assert extension.ms_deform_attn_backward.__module__ == "saccade.compat.official_extension"

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    print("exit status", process.exitcode)
"""


def test_processes_that_a_script_spawns_find_the_extension(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write({"main.py": SPAWNING})
    monkeypatch.setattr(sys, "argv", ["compat", str(tmp_path / "main.py")])
    monkeypatch.setattr(sys, "path", ["", *sys.path[1:]])
    monkeypatch.setenv("PYTHONPATH", "their/own")
    run_script()
    assert capsys.readouterr().out == "exit status 0\n"
    # What other programs than multiprocessing hand down to the Python that they start.
    ours, theirs = os.environ["PYTHONPATH"].split(os.pathsep)
    assert PathFinder.find_spec("MultiScaleDeformableAttention", [ours]) is not None
    assert theirs == "their/own"


@pytest.mark.parametrize("given", [[], ["absent.py"]])
def test_a_script_that_is_not_there_is_refused(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["compat", *given])
    with pytest.raises(SystemExit, match="2"):
        run_script()
    named = "".join(given) or "no script"
    assert f"{named} was given but the path of a Python script" in capsys.readouterr().err


def test_the_backward_function_returns_a_list_of_three() -> None:
    install_extension()
    extension = importlib.import_module("MultiScaleDeformableAttention")
    given = arguments()
    out = extension.ms_deform_attn_forward(*given, 64)
    grads = extension.ms_deform_attn_backward(*given, torch.ones_like(out), 64)
    assert isinstance(grads, list)
    assert [grad.shape for grad in grads] == [given[index].shape for index in (0, 3, 4)]


def test_autocast_does_not_change_the_extension() -> None:
    install_extension()
    extension = importlib.import_module("MultiScaleDeformableAttention")
    given = arguments(dtype=torch.float32)
    plain = extension.ms_deform_attn_forward(*given, 64)
    grads = extension.ms_deform_attn_backward(*given, plain, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extension.ms_deform_attn_forward(*given, 64), plain)
        again = extension.ms_deform_attn_backward(*given, plain, 64)
    assert all(torch.equal(*pair) for pair in zip(again, grads, strict=True))


def test_levels_in_another_order_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"level_start_index is \[6, 0\] but .* start at \[0, 20\]"
    ):
        read_levels(torch.tensor(LEVELS), torch.tensor([6, 0]))


@pytest.mark.parametrize(
    ("shapes", "starts", "message"),
    [
        (
            torch.tensor([4, 5]),
            torch.tensor([0]),
            r"spatial_shapes has shape \[2\] but a tensor \[",
        ),
        (torch.zeros(2, 3), torch.tensor([0]), r"spatial_shapes has shape \[2, 3\] but"),
        (torch.tensor(LEVELS), torch.tensor(0), r"level_start_index has shape \[\] but"),
        (LEVELS, torch.tensor([0, 20]), r"spatial_shapes is a list but a tensor \[L, 2\] .* pass"),
        (torch.tensor(LEVELS), [0, 20], r"level_start_index is a list but a tensor \[L\] "),
    ],
)
def test_levels_in_another_form_are_refused(
    shapes: object, starts: object, message: str, unchecked_shapes: None
) -> None:
    with pytest.raises(ValueError, match=message):
        read_levels(shapes, starts)


def test_a_tensor_is_read_from_its_device_again_only_if_written_to() -> None:
    numbers = torch.tensor([[1, 2]])
    read = _numbers_kept(numbers)
    assert read == ((1, 2),)
    assert _numbers_kept(numbers) is read
    numbers.add_(1)
    assert _numbers_kept(numbers) == ((2, 3),)
    assert _numbers_kept(numbers.clone()) is not _numbers_kept(numbers)


def test_a_second_installation_changes_nothing() -> None:
    assert install_extension() == install_extension() == ["MultiScaleDeformableAttention"]
    first = sys.modules["MultiScaleDeformableAttention"]
    install_extension()
    assert sys.modules["MultiScaleDeformableAttention"] is first
    uninstall_extension()
    uninstall_extension()
    assert "MultiScaleDeformableAttention" not in sys.modules


def test_software_that_asks_whether_the_extension_is_there_is_told_so() -> None:
    assert importlib.util.find_spec("MultiScaleDeformableAttention") is None
    install_extension()
    assert importlib.util.find_spec("MultiScaleDeformableAttention") is not None


@pytest.mark.parametrize("imported_before", [True, False])
def test_a_compiled_extension_has_its_functions_exchanged_and_gets_them_back(
    write: Write, imported_before: bool
) -> None:
    write({"MultiScaleDeformableAttention.py": COMPILED, "caller.py": OFFICIAL_CALLER})
    caller = importlib.import_module("caller") if imported_before else None
    install_extension()
    caller = caller or importlib.import_module("caller")
    assert_like_the_reference(caller.Attention)
    assert caller.extension.nms() == "compiled nms"
    uninstall_extension()
    assert caller.extension.ms_deform_attn_forward() == "compiled forward"
    assert caller.extension.ms_deform_attn_backward() == "compiled backward"


def test_a_compiled_extension_that_does_not_load_is_replaced(write: Write) -> None:
    broken = "raise ImportError('undefined symbol')"
    write({"MultiScaleDeformableAttention.py": broken, "caller.py": OFFICIAL_CALLER})
    install_extension()
    assert_like_the_reference(importlib.import_module("caller").Attention)
    uninstall_extension()
    with pytest.raises(ImportError, match="undefined symbol"):
        importlib.import_module("MultiScaleDeformableAttention")


def test_a_module_of_that_name_without_the_functions_is_given_them(write: Write) -> None:
    write({"MultiScaleDeformableAttention.py": "own = 1", "caller.py": OFFICIAL_CALLER})
    install_extension()
    caller = importlib.import_module("caller")
    assert_like_the_reference(caller.Attention)
    assert caller.extension.own == 1
    uninstall_extension()
    assert caller.extension.own == 1
    assert not hasattr(caller.extension, "ms_deform_attn_forward")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("imported_before", [True, False])
def test_a_repository_that_calls_through_mmcv_runs(
    write: Write, compiled: bool, imported_before: bool
) -> None:
    write({"mmcv/__init__.py": "", "mmcv/utils.py": MMCV_UTILS, "caller.py": MMCV_CALLER})
    if compiled:
        write({"mmcv/_ext.py": COMPILED})
    if imported_before:
        importlib.import_module("mmcv._ext" if compiled else "mmcv")
    assert install_extension() == ["MultiScaleDeformableAttention", "mmcv._ext"]
    assert ("mmcv" in sys.modules) is imported_before
    caller = importlib.import_module("caller")
    assert_like_the_reference(caller.Attention)
    uninstall_extension()
    if compiled:
        assert caller.extension.ms_deform_attn_forward() == "compiled forward"
    else:
        with pytest.raises(ModuleNotFoundError, match=r"mmcv\._ext"):
            importlib.import_module("mmcv._ext")


def test_other_functions_of_a_compiled_mmcv_stay(write: Write) -> None:
    write({"mmcv/__init__.py": "", "mmcv/_ext.py": COMPILED})
    install_extension()
    assert importlib.import_module("mmcv._ext").nms() == "compiled nms"


def test_other_functions_of_mmcv_can_be_looked_up_and_say_that_they_are_missing() -> None:
    extension = StandIn()
    assert callable(extension.nms)
    with pytest.raises(NotImplementedError, match="'nms' was called, but mmcv came without"):
        extension.nms(torch.zeros(1, 4))
    assert not hasattr(extension, "__path__")


def test_an_extension_that_a_package_imports_from_itself_is_served(write: Write) -> None:
    call = OFFICIAL_CALLER.replace(
        "import MultiScaleDeformableAttention as extension", "from detrex import _C as extension"
    )
    write({"detrex/__init__.py": "", "caller.py": call})
    assert install_extension() == ["MultiScaleDeformableAttention", "detrex._C"]
    assert_like_the_reference(importlib.import_module("caller").Attention)


def test_a_mocked_package_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmcv", object())
    assert install_extension() == ["MultiScaleDeformableAttention"]
