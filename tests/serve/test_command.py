import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saccade.cli import main
from saccade.serve.access import read_access
from saccade.serve.arguments import ServeArguments
from saccade.serve.command import serve
from saccade.serve.naming import name_models
from saccade.serve.served import Served
from saccade.serve.settings import LOOPBACK, Limits
from tests.serve.asking import GatedEngine

TOKEN = "a-token-of-many-letters"


def not_called(*arguments: Any) -> Any:
    raise AssertionError(arguments)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["weights/r50.pth"], ["r50"]),
        (["SenseTime/deformable-detr"], ["deformable-detr"]),
        (["runs/a/best", "runs/b/last"], ["a", "b"]),
        (["x.1=runs/a/best", "runs/a/last"], ["x.1", "a"]),
        (["Röntgen bild.pth"], ["R-ntgen-bild"]),
        (["..."], ["model"]),
    ],
)
def test_models_are_called_after_their_weights(models: list[str], names: list[str]) -> None:
    assert list(name_models(models)) == names


def test_a_folders_name_has_no_suffix(tmp_path: Path) -> None:
    for name in ("r50-1.5", "r50-1.6"):
        (tmp_path / name).mkdir()
    folders = [str(folder) for folder in sorted(tmp_path.iterdir())]
    assert list(name_models(folders)) == ["r50-1.5", "r50-1.6"]


def test_an_equals_sign_in_a_path_that_exists_is_no_name(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-4"
    folder.mkdir()
    assert name_models([str(folder)]) == {"lr-1e-4": str(folder)}


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([], "no models: name one or more"),
        (["runs/a/best", "runs/a/last"], 'would both be called "a": name one of them'),
        (["a b=x"], "is not NAME=WEIGHTS"),
        (["=x"], "is not NAME=WEIGHTS"),
        (["a="], "is not NAME=WEIGHTS"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(models: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        name_models(models)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    arguments = ServeArguments(token_file=file)
    assert read_access(arguments, {"SACCADE_TOKEN": "another-token-of-letters"}).token == TOKEN
    assert read_access(ServeArguments(), {"SACCADE_TOKEN": TOKEN}).token == TOKEN
    assert read_access(ServeArguments(), {}).token is None


@pytest.mark.parametrize("token", ["", "short", "sixteen letters and é", "a" * 20 + "\nb"])
def test_a_token_that_protects_nothing_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"the token in SACCADE_TOKEN has .* secrets") as error:
        read_access(ServeArguments(), {"SACCADE_TOKEN": token})
    assert not token or token not in str(error.value)


@pytest.mark.parametrize(
    ("host", "allowed", "hosts"),
    [
        ("127.0.0.1", (), (*LOOPBACK, "127.0.0.1")),
        ("127.0.0.1", ("Cells.Example.org",), (*LOOPBACK, "127.0.0.1", "cells.example.org")),
        ("0.0.0.0", (), None),
        ("0.0.0.0", ("a.example",), ("a.example",)),
    ],
)
def test_a_server_of_this_machine_alone_answers_to_its_names(
    host: str, allowed: Sequence[str], hosts: Sequence[str] | None
) -> None:
    access = read_access(ServeArguments(host=host, allowed_hosts=tuple(allowed)), {})
    assert access.hosts == hosts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1.5}, "--threshold is 1.5"),
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"queue": 0}, "--queue is 0"),
        ({"max_looks": -1}, "--max-looks is -1"),
        ({"max_wait": -1.0}, "--max-wait is -1.0"),
        ({"timeout": 0.0}, "--timeout is 0.0"),
        ({"upload_timeout": float("inf")}, "--upload-timeout is inf"),
        ({"max_megapixels": float("nan")}, "--max-megapixels is nan"),
        ({"max_upload": 300.0}, "--upload-memory 256.0 holds no body of --max-upload 300.0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(Limits(), **options)


def test_a_port_that_is_taken_is_told_before_models_are_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ServeArguments(models=("a",), port=taken.getsockname()[1])
        with pytest.raises(OSError, match=r"cannot listen at 127\.0\.0\.1, port \d+ .*--port"):
            serve(arguments, not_called, not_called, not_called)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("saccade.serve.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ValueError, match=r"uvicorn, .* pip install 'saccade\[serve\]'"):
        serve(ServeArguments(models=("a",)), not_called, not_called, not_called)


def test_unusable_weights_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "nothing.pth"), "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("saccade serve: ")


def test_whoever_reads_the_address_may_connect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Any, listener: socket.socket, __: Any) -> None:
        assert capsys.readouterr().out.startswith("saccade serve: x at http://127.0.0.1:")
        socket.create_connection(listener.getsockname()).close()

    monkeypatch.setattr("saccade.serve.server.run", run)
    arguments = ServeArguments(models=("x",), port=0)

    def open_model(name: str, _: str) -> Served:
        return Served(name, GatedEngine())

    assert serve(arguments, open_model, not_called, not_called) == 0
