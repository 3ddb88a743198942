"""Who builds the nodes of a command, and what each of them may have. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import require, require_choice, require_range

EXECUTORS = {
    "serial": "plumbrule.pipeline.executors.serial:run",
    "local": "plumbrule.pipeline.executors.local:run",
    "ray": "plumbrule.pipeline.executors.ray_tasks:run",
    "slurm": "plumbrule.pipeline.executors.slurm:run",
    "submitit_local": "plumbrule.pipeline.executors.slurm:run_local",
}
"""executor.name -> a function of the graph, this config and where to say something."""


@dataclass
class ExecutorConfig:
    """Where nodes are built that do not need each other; never hashed."""

    name: str = "serial"
    """serial: one after the other in this process; local: in processes side by side on this
    machine; ray: as tasks of a Ray cluster; slurm: a job each; submitit_local: as slurm, but on
    this machine and without Slurm."""
    workers: int | None = None
    """Of local, and of a Ray that is started here: nodes at a time. None: one for each accelerator
    that runtime.device may use; on a CPU as many as runtime.threads, or one thread each, allows."""
    cpus: int | None = None
    """That a node asks of ray and slurm; None: runtime.threads times runtime.processes, else 1."""
    gpus: float | None = None
    """That a node asks of ray and slurm; None: runtime.processes where runtime.device is cuda, else
    0. Below 1 several nodes share an accelerator (ray alone)."""
    memory_gib: float | None = None
    """That a node may take, GiB: local starts no node that this machine has no room for beside
    those that run, ray and slurm are asked for it. None: of stages that train what the plan
    reckons, of others 1 GiB with local and nothing else."""
    address: str | None = None
    """Of ray: the cluster's; None: that of $RAY_ADDRESS, else a Ray of this machine."""
    partition: str | None = None
    """Of slurm: where jobs are submitted; None: Slurm's default."""
    time_minutes: int = 24 * 60
    """Of slurm and submitit_local: longest time of a node, minutes."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Of slurm: further options of sbatch, such as {account: mine, qos: high}."""

    def __post_init__(self) -> None:
        require_choice("executor.name", self.name, EXECUTORS)
        for name in ("workers", "cpus"):
            if getattr(self, name) is not None:
                require_range(f"executor.{name}", getattr(self, name), 1, 4096)
        if self.gpus is not None:
            require_range("executor.gpus", self.gpus, 0.0, 1024.0)
            whole = self.gpus >= 1 and self.gpus == int(self.gpus)
            require(
                whole or self.gpus == 0 or (self.gpus < 1 and self.name == "ray"),
                "executor.gpus",
                self.gpus,
                "be a whole number, or with executor=ray a share of one below 1",
                "round it",
            )
        if self.memory_gib is not None:
            require_range("executor.memory_gib", self.memory_gib, 1e-3, 1e6, unit="GiB")
        require_range("executor.time_minutes", self.time_minutes, 1, 60 * 24 * 366, unit="minutes")
