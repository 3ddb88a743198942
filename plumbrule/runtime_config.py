"""How a command computes: devices, processes and threads. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from plumbrule.config import require, require_choice, require_range


@dataclass
class RuntimeConfig:
    """What changes speed and memory but not numbers, up to rounding; never hashed."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: cuda where there is one."""
    processes: int = 1
    """Processes of a stage on a machine; above 1 they are started with torchrun."""
    nodes: int = 1
    """Machines; above 1 torchrun is started on each by `srun`, in a Slurm allocation."""
    sharding: str = "none"
    """Of ppo: none, every process holds all weights; fsdp, they are spread over the processes."""
    silence_minutes: float = 10.0
    """Whoever waits so long for another process, even for a checkpoint or for what the first \
process publishes, ends the stage."""
    threads: int | None = None
    """CPU threads per process; None: $OMP_NUM_THREADS, else the cores that affinity, cgroup quota \
and Slurm give this command, shared among its processes. More than there are: all there are."""
    micro_batch_size: int = 32
    """Rows per forward and backward pass."""
    sampler_device: str | None = None
    """Of ppo.sampler=vllm: cpu, cuda or cuda:N. None: where the policy is trained; on a GPU the \
engine then gives its memory back while it does not sample."""
    sampler_cache_gib: float = 1.0
    """Of ppo.sampler=vllm: memory for keys and values, GiB; responses that it can't hold together \
are answered one after the other."""
    sampler_timeout_seconds: float = 600.0
    """Of ppo.sampler=vllm: an engine that is silent for longer ends the stage; the first answer \
takes its start, the others a whole rollout of one process."""
    vllm_python: str | None = None
    """Of ppo.sampler=vllm: the Python of vLLM's environment; None: .venv-vllm/bin/python of the \
working folder, else of the code's (`make install-vllm`)."""
    faiss_gpu: bool = False
    """Of an index whose rag.dense_index is approximate: search a copy on a GPU, with the package \
faiss-gpu; for types that FAISS copies there (`rag/index/gpu_copy.py`)."""
    gradient_checkpointing: bool = False
    """Of sft, rm, ppo and dpo: keep one activation per layer and compute the others again in the \
backward pass: less memory for a third more work."""

    def __post_init__(self) -> None:
        known = self.device == "auto" or _is_device(self.device)
        require(known, "runtime.device", self.device, "be auto, cpu, cuda or cuda:N", "choose one")
        require(
            self.sampler_device is None or _is_device(self.sampler_device),
            "runtime.sampler_device",
            self.sampler_device,
            "be cpu, cuda or cuda:N",
            "choose one, or leave it out",
        )
        require_range("runtime.sampler_cache_gib", self.sampler_cache_gib, 1e-6, 1e6, unit="GiB")
        require_range(
            "runtime.sampler_timeout_seconds",
            self.sampler_timeout_seconds,
            0.1,
            86_400.0,
            unit="seconds",
        )
        require_range("runtime.processes", self.processes, 1, 1024)
        require_range("runtime.nodes", self.nodes, 1, 1024)
        require_choice("runtime.sharding", self.sharding, ("none", "fsdp"))
        require_range("runtime.silence_minutes", self.silence_minutes, 0.01, 1440.0, unit="minutes")
        require(
            self.sharding == "none" or self.processes * self.nodes > 1,
            "runtime.sharding",
            self.sharding,
            "be none in a single process",
            "leave it out, or set runtime.processes to the number of devices",
        )
        require_range("runtime.micro_batch_size", self.micro_batch_size, 1, unit="rows")
        require(
            self.processes * self.nodes == 1 or not self.device.startswith("cuda:"),
            "runtime.device",
            self.device,
            "be cuda where there are several processes, which take a device each",
            "leave out the number",
        )
        if self.threads is not None:
            require_range("runtime.threads", self.threads, 1, 4096)


def _is_device(name: str) -> bool:
    """Return whether a name is cpu, cuda or cuda:N."""
    number = name.removeprefix("cuda:")
    return name in ("cpu", "cuda") or (number != name and number.isdecimal() and len(number) <= 4)
