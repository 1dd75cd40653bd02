"""A run of two ranks; what goes on from its checkpoint on other numbers of ranks; and the same run as a job of Slurm on
two nodes that are one machine, with stand-ins for srun and scontrol."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import free_port
from safetensors.numpy import load_file

from schemas.settings import load_settings
from train.config import TrainConfig
from train.loop import train

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "train" / "slurm.sbatch"
EXACT = ("step", "loss", "grad_norm", "lr", "trained_tokens", "tokens", "losses")
STEPS, SAVED, KILLED, SIGNALLED = 20, 10, 13, 16

Launch = Callable[..., subprocess.CompletedProcess[str]]
Job = Callable[[int], subprocess.CompletedProcess[str]]

SRUN = """#!/bin/bash
# One task on each of two nodes. The processes of the tasks are what Slurm signals.
[ "$1 $2" = "--kill-on-bad-exit=1 --cpus-per-task=8" ] && shift 2
for node in 0 1; do
    SLURM_NODEID=$node "$@" > "$JOB/$SLURM_RESTART_COUNT-node$node.log" 2>&1 &
    echo $! > "$JOB/task$node"
done
code=0
for task in $(jobs -p); do wait "$task" || code=$?; done
exit $code
"""

SCONTROL = """#!/bin/bash
case "$1" in
    show) printf 'localhost\\nlocalhost\\n' ;;
    *) echo "$@" >> "$JOB/requeued" ;;
esac
"""

FATE = f"""
import os, signal, time

if "RANK" in os.environ and os.environ.get("SLURM_NODEID") == "1" and os.environ["SLURM_RESTART_COUNT"] == "0":
    from train import loop

    def take_step(run, data, count):
        if run.state.step + 1 == {KILLED} and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            loop.clip_gradients = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        if run.state.step + 1 == {SIGNALLED}:
            os.kill(os.getppid(), signal.SIGUSR1)  # torchrun, which some set-ups of Slurm signal, too
            os.kill(int(open(os.environ["JOB"] + "/task1").read()), signal.SIGUSR1)
            while not run.stop:
                time.sleep(0.01)
        return taking(run, data, count)

    taking, loop.take_step = loop.take_step, take_step
"""
"""Read by every Python that starts as `sitecustomize`: what happens to the rank on the second node."""


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    build_weighted: Callable[[Path], list[dict[str, Any]]],
    fork_ranks: Launch,
) -> Path:
    """The output of a run of two ranks on one node, undisturbed; its config is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    datasets = build_weighted(folder)
    config = {
        "output": str(folder / "run"),
        "datasets": datasets,
        "model": "tiny",
        "packs_per_step": 3,
        "packs_per_microbatch": 2,
        "steps": STEPS,
        "learning_rate": 0.01,
        "warmup_steps": 3,
        "schedule": "cosine",
        "checkpoints": {"every": SAVED},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    done = fork_ranks(2, "-m", "train", folder / "config.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "run"


def config_of(whole: Path) -> Path:
    return whole.with_name("config.yaml")


@pytest.fixture
def sbatch(tmp_path: Path, whole: Path) -> Job:
    """Run the script as Slurm does when the job starts for the first time (0), or again."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(FATE)
    job = {
        "SLURM_JOB_ID": str(free_port() % 10_000),
        "SLURM_JOB_NODELIST": "two",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "8",
        "CONFIG": str(config_of(whole)),
        "OUTPUT": str(tmp_path / "run"),
        "JOB": str(tmp_path),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "PYTHONSAFEPATH": "1",
    }
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])

    def start(restarts: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **job, "PATH": path, "SLURM_RESTART_COUNT": str(restarts), "OMP_NUM_THREADS": "1"}
        return subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, timeout=200)

    return start


def steps_of(output: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [{key: line[key] for key in EXACT} for line in lines]


def weights_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(output / "model" / "model.safetensors")
    return found


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_with_four(
    whole: Path, tmp_path: Path, fork_ranks: Launch
) -> None:
    for name in ("alone", "by four"):
        shutil.copytree(
            whole / "checkpoints" / f"step-{SAVED:08d}", tmp_path / name / "checkpoints" / f"step-{SAVED:08d}"
        )
        shutil.copy(whole / "metrics.jsonl", tmp_path / name)
    train(load_settings(TrainConfig, config_of(whole), [f"output={tmp_path / 'alone'}"]), "resume")
    changes = ("--set", f"output={tmp_path / 'by four'}", "--set", "checkpoints.background=true")
    done = fork_ranks(4, "-m", "train", config_of(whole), "--resume", *changes)
    assert done.returncode == 0, done.stderr
    for name in ("alone", "by four"):
        assert_alike(tmp_path / name, whole)


def assert_alike(found: Path, expected: Path) -> None:
    """The same packs; what is computed differs as sums in another order do."""
    steps, others = steps_of(expected), steps_of(found)
    for key in ("step", "trained_tokens", "tokens"):
        assert [line[key] for line in others] == [line[key] for line in steps]
    assert [line["loss"] for line in others] == pytest.approx([line["loss"] for line in steps], rel=1e-4)
    weights = weights_of(found)
    assert all(np.abs(weights[name] - tensor).max() < 1e-3 for name, tensor in weights_of(expected).items())


@pytest.mark.slow
def test_a_job_that_loses_a_rank_and_runs_out_of_time_ends_as_if_it_had_not(
    whole: Path, sbatch: Job, tmp_path: Path
) -> None:
    """A rank of the second node dies in a step: both nodes start again, from the checkpoint. Then that node alone is
    signalled: all ranks save the same step and end, and the job queues anew."""
    output = tmp_path / "run"
    logs = run_job(sbatch, 0, tmp_path)
    assert "exitcode: -9" in logs[1]
    assert sum(log.count(f"going on after step {SAVED} ") for log in logs) == 1
    assert sum(log.count(f"stopped by a signal after step {SIGNALLED};") for log in logs) == 1
    assert not (output / "model").exists()
    requeued = (tmp_path / "requeued").read_text().splitlines()
    assert len(requeued) == 1

    logs = run_job(sbatch, 1, tmp_path)
    assert sum(log.count(f"going on after step {SIGNALLED} ") for log in logs) == 1
    assert (tmp_path / "requeued").read_text().splitlines() == requeued
    assert len(steps_of(whole)) >= STEPS - 5
    assert steps_of(output) == steps_of(whole)
    expected, found = weights_of(whole), weights_of(output)
    assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())


def run_job(sbatch: Job, restarts: int, folder: Path) -> tuple[str, str]:
    """What its two nodes have printed."""
    done = sbatch(restarts)
    logs = [(folder / f"{restarts}-node{node}.log").read_text() for node in (0, 1)]
    assert done.returncode == 0, (done.stderr, *logs)
    return logs[0], logs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "requeued"),
    [
        ("exit 1", False),
        ("true", False),  # nothing is there to go on from: what ended so would end so again, and again
        ("mkdir -p run/checkpoints", True),
        ("mkdir -p run/checkpoints run/model; touch -d @1 run/checkpoints", False),
        ("mkdir -p run/checkpoints run/model; touch -d @1 run/model", True),  # a model from before `steps` were raised
    ],
)
def test_a_job_that_a_signal_stopped_is_queued_anew(tasks: str, requeued: bool, tmp_path: Path) -> None:
    for name, text in (("srun", f"#!/bin/bash\n{tasks}\n"), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "two", "OUTPUT": "run", "JOB": str(tmp_path)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", SCRIPT], cwd=tmp_path, env={**os.environ, **job, "PATH": path}, timeout=60)
    assert done.returncode == (tasks == "exit 1")
    assert (tmp_path / "requeued").exists() == requeued
