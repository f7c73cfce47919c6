"""The examples for schedulers: what of them can be tried on one machine."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from saccade.data import Split

ROOT = Path(__file__).parents[1]
SLURM = ROOT / "examples" / "slurm" / "train.sbatch"
KUBERNETES = ROOT / "examples" / "kubernetes" / "train.yaml"
SMALL = (
    "--preset deformable-detr-nano --epochs 1 --batch-size 1 --analyse 0 --val-split train "
    "--launch.accelerator cpu --model.input.short-side 64 --augmentation.short-sides 64 "
    "--model.queries.num-queries 20"
)


def job() -> dict[str, Any]:
    """The Job of the Kubernetes example, its Service looked at on the way."""
    service, found = yaml.safe_load_all(KUBERNETES.read_text("utf-8"))
    assert (service["kind"], found["kind"]) == ("Service", "Job")
    assert service["spec"]["selector"] == {"job-name": found["metadata"]["name"]}
    assert service["metadata"]["name"] == found["spec"]["template"]["spec"]["subdomain"]
    return dict(found["spec"])


def test_the_kubernetes_job_counts_its_pods_alike_everywhere() -> None:
    spec = job()
    (container,) = spec["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["FIRST"] == "saccade-0.saccade"
    assert int(env["NODES"]) == spec["completions"] == spec["parallelism"]
    assert int(env["PROCESSES"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in spec["template"]["spec"]["volumes"]}


def test_the_slurm_script_is_one_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    lines = SLURM.read_text("utf-8").splitlines()
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@180"} <= set(lines)


@pytest.fixture
def one_machine(write_coco: Callable[..., Split], tmp_path: Path) -> dict[str, str]:
    """An environment with a dataset, and commands on the path that stand in for a cluster's."""
    objects = [{"image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 24], "area": 480}]
    folder = write_coco(dict.fromkeys(range(1, 5), (48, 64)), objects).images.parent
    commands = tmp_path / "commands"
    commands.mkdir()
    scripts = {
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "srun": 'shift; exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path / "scontrol.txt"}; echo 127.0.0.1',
    }
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/bin/bash\n{script}\n")
        (commands / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "DATA": str(folder),
        "OUT": str(tmp_path / "run"),
        "OPTIONS": SMALL,
        "OMP_NUM_THREADS": "1",
    }


def run(command: list[str], environment: dict[str, str], until: str | None = None) -> int:
    """Run a command in a process group of its own.

    Args:
        command: To run.
        environment: Its variables.
        until: The script is told that its time ends as soon as this is in its output.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        while until is not None:
            line = process.stdout.readline()
            assert line
            if until in line:
                process.send_signal(signal.SIGUSR1)
                break
        print(process.communicate(timeout=400)[0])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


@pytest.mark.slow
def test_the_kubernetes_command_trains(one_machine: dict[str, str]) -> None:
    (container,) = job()["template"]["spec"]["containers"]
    given = {"NODES": "1", "PROCESSES": "1", "FIRST": "127.0.0.1"}
    command = [*container["command"], *container["args"]]
    assert run(command, one_machine | given) == 0
    assert (Path(one_machine["OUT"]) / "last" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_slurm_script_trains_and_goes_back_into_the_queue(
    one_machine: dict[str, str], tmp_path: Path
) -> None:
    given = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_GPUS_ON_NODE": "1",
    }
    environment = one_machine | given
    long = environment | {"OPTIONS": f"{SMALL} --epochs 1000 --num-evaluations 1000"}
    bash = shutil.which("bash")
    assert bash is not None
    assert run([bash, str(SLURM)], long, until="epoch 1 of 1000") != 0
    assert (tmp_path / "scontrol.txt").read_text().splitlines()[-1] == "requeue 7"
    assert (tmp_path / "run" / "last.ckpt").exists()
    assert run([bash, str(SLURM)], environment) == 0
    assert (tmp_path / "run" / "last" / "model.safetensors").exists()
