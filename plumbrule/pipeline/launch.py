"""A stage in several processes: what they are told, how they are started, what they leave.

`torchrun` starts them on this machine, or one torchrun on each machine of a Slurm job; each runs
`worker.py`, which reads `stage.json` and writes `result.json` beside it.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from plumbrule.errors import TrainingError
from plumbrule.machine.environment import num_threads
from plumbrule.pipeline.graph import Node
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import claims
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import RESULT, STAGE
from plumbrule.store.json_files import read_json, write_json

FIRST_PORT, PORTS = 20_000, 10_000
"""Where the processes of several machines meet, by the number of their Slurm job."""
SLURM = ("SLURM_JOB_ID", "SLURMD_NODENAME")
"""What Slurm sets where a batch script runs, on the first of its machines."""


def run_in_processes(
    node: Node, inputs: Mapping[str, Artifact], runtime: RuntimeConfig, folder: Path
) -> Mapping[str, float]:
    """Run a stage under torchrun and return the metrics that its first process left.

    Raises: TrainingError: a process failed; its own output says why.
    """
    write_json(
        folder / STAGE,
        {
            "kind": node.kind,
            "config": asdict(node.config),
            "inputs": {
                slot: {**asdict(artifact), "path": str(artifact.path)}
                for slot, artifact in inputs.items()
            },
            "runtime": asdict(runtime),
            "parent": {
                "pid": os.getpid(),
                "born": claims.born(os.getpid()),
                "host": socket.gethostname(),
            },
        },
    )
    result = folder / RESULT
    result.unlink(missing_ok=True)
    command = [*torchrun(runtime, os.environ), "-m", "plumbrule.pipeline.worker", str(folder)]
    environment = {**os.environ}
    environment["OMP_NUM_THREADS"] = str(num_threads(runtime))  # else torchrun would say 1
    _free_accelerator()
    with subprocess.Popen(command, env=environment) as children:
        try:
            code = children.wait()
        except BaseException:
            children.terminate()  # torchrun then ends its workers, which are not our children
            children.wait()
            raise
    if code or not result.is_file():
        raise TrainingError(
            f"stage {node.kind} failed in one of its {runtime.processes * runtime.nodes} processes "
            f"(exit code {code}); see its output above."
        )
    return read_json(result)


def _free_accelerator() -> None:
    """Give back what earlier stages of this process keep on a device that the first worker uses."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def torchrun(runtime: RuntimeConfig, environment: Mapping[str, str]) -> list[str]:
    """Return the command before `-m module` that starts a stage's processes.

    On several machines `srun` starts one torchrun on each, and these meet at the first, where the
    batch script runs. The store and the Python environment must lie where all machines see them.
    """
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += [f"--nproc-per-node={runtime.processes}"]
    if runtime.nodes == 1:
        return [*command, "--standalone"]
    job, first = (environment[name] for name in SLURM)  # checks.py has seen that they are there
    port = FIRST_PORT + int(job) % PORTS
    nodes = str(runtime.nodes)
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    meeting = [f"--nnodes={nodes}", f"--rdzv-id={job}", "--rdzv-backend=c10d"]
    return [*srun, "--kill-on-bad-exit=1", *command, *meeting, f"--rdzv-endpoint={first}:{port}"]
