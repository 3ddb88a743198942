"""The process beside ours: how it dies, hangs, is told off, and never outlives us.

`engine_script.py` imports vLLM only when an engine is started, so here it runs without, under our
own Python; where it must misbehave, a few lines stand in for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from peft import IA3Config, get_peft_model
from worlds import engine as world

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.adapters import merged, with_adapter
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.generation.vllm.engine_process import (
    SCRIPT,
    EngineDied,
    EngineFailed,
    EngineHung,
    EngineProcess,
)
from plumbrule.lm.generation.vllm.shared_weights import SharedWeights, whole_weights
from plumbrule.lm.generation.vllm.vllm_sampler import (
    VLLMSampler,
    check_probe,
    config_text,
    environment,
    refusal,
)
from plumbrule.machine import vllm_environment
from plumbrule.machine.vllm_environment import check_version, vllm_python
from plumbrule.runtime_config import RuntimeConfig

PYTHON = Path(sys.executable)
WARM = SamplingConfig(temperature=0.7, max_new_tokens=4, batch_size=4)
PATIENCE_SECONDS = 60.0
SPEAKS = f"""
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("framing", {str(SCRIPT.with_name("framing.py"))!r})
framing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(framing)
def say(body, blobs=()):
    sys.stdout.buffer.write(framing.pack(body, blobs))
    sys.stdout.buffer.flush()
def hear():
    return framing.read_message(sys.stdin.buffer.read)
say({{"version": "{vllm_environment.VERSION}"}})
"""
"""Beginning of a stand-in: it says its version."""


@pytest.fixture
def memory() -> Iterator[SharedWeights]:
    memory = SharedWeights()
    yield memory
    memory.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def started(memory: SharedWeights, script: Path = SCRIPT, seconds: float = 60.0) -> EngineProcess:
    return EngineProcess(PYTHON, memory.file, {}, seconds, script=script)


def is_there(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone_soon(pid: int) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while is_there(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_there(pid)


# Life and death


def test_it_says_which_vllm_it_has_and_ends_with_its_input(memory: SharedWeights) -> None:
    process = started(memory)
    assert process.answer().body == {"version": None}  # this environment has none
    process.close()
    assert process.process.returncode == 0


def test_an_error_there_is_an_error_here_and_it_goes_on(memory: SharedWeights) -> None:
    process = started(memory)
    process.answer()
    for _ in range(2):
        with pytest.raises(EngineFailed, match=r"ValueError: op .=dance. must be") as caught:
            process.ask({"op": "dance"})
        assert "Traceback" in caught.value.last_lines
    process.close()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_was_killed_is_dead_with_its_last_lines(
    memory: SharedWeights, by: signal.Signals
) -> None:
    process = started(memory)
    process.answer()
    with pytest.raises(EngineFailed):
        process.ask({"op": "dance"})  # prints
    os.kill(process.process.pid, by)
    with pytest.raises(EngineDied, match=rf"was ended by {by.name}[\s\S]*op .=dance."):
        process.ask({"op": "generate"})


def test_one_that_ends_in_the_middle_of_an_answer_is_dead(
    memory: SharedWeights, script: Path
) -> None:
    script.write_text(
        SPEAKS + "hear()\nsys.stdout.buffer.write(framing.pack({}, [b'123'])[:-1])\n"
        "print('the last line', file=sys.stderr)\nsys.stdout.flush()\nos._exit(7)\n"
    )
    process = started(memory, script)
    process.answer()
    with pytest.raises(EngineDied, match=r"exit code 7[\s\S]*the last line"):
        process.ask({"op": "generate"})


def test_one_that_speaks_something_else_is_ended(memory: SharedWeights, script: Path) -> None:
    script.write_text("print('INFO: hello, all well', flush=True)\nimport time\ntime.sleep(600)\n")
    process = started(memory, script)
    with pytest.raises(EngineDied, match="spoke out of turn"):
        process.answer()
    assert process.process.returncode is not None


@pytest.mark.parametrize("size", [0, 2**22], ids=["silent", "reads nothing"])
def test_one_that_hangs_is_ended_after_the_time_that_is_set(
    memory: SharedWeights, script: Path, size: int
) -> None:
    """Also while a request, longer than a pipe holds, is still being written."""
    script.write_text(SPEAKS + "print('busy', file=sys.stderr, flush=True)\ntime.sleep(600)\n")
    process = started(memory, script)
    process.answer()
    process.timeout_seconds = 0.3
    with pytest.raises(EngineHung, match=r"sampler_timeout_seconds .=0.3 seconds.[\s\S]*busy"):
        process.ask({"op": "generate"}, [b"x" * size])
    assert process.process.returncode == -signal.SIGKILL


STUCK = (
    SPEAKS
    + f"""
spec = importlib.util.spec_from_file_location("script", {str(SCRIPT)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.end_with_parent(int(sys.argv[2]))
say({{}})
time.sleep(600)
"""
)
"""One that never looks at its input, as in a kernel that does not come back."""


def run_that_waits(script: Path, num_messages: int, pids: Connection) -> None:
    """Start an engine process, hear its first messages, tell its pid and wait."""
    memory = SharedWeights()
    process = EngineProcess(PYTHON, memory.file, {}, PATIENCE_SECONDS, script=script)
    for _ in range(num_messages):
        process.answer()
    pids.send(process.process.pid)
    time.sleep(600)


@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
def test_none_is_left_of_a_run_that_was_killed(stuck: bool, script: Path) -> None:
    """The run is a fork of this process, which has imported everything already."""
    script.write_text(STUCK)
    fork = multiprocessing.get_context("fork")
    pids, theirs = fork.Pipe(duplex=False)
    run = (script if stuck else SCRIPT, 1 + stuck, theirs)
    parent = fork.Process(target=run_that_waits, args=run)
    parent.start()
    assert pids.poll(PATIENCE_SECONDS)
    child = pids.recv()
    assert is_there(child)
    parent.kill()
    parent.join()
    assert gone_soon(child)


def test_one_whose_parent_is_gone_before_it_looks_ends_by_itself(memory: SharedWeights) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), str(memory.file), "1"],  # not its parent
        stdin=subprocess.PIPE,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


# The sampler's part


def sampler(script: Path, seconds: float = 60.0) -> VLLMSampler:
    runtime = RuntimeConfig(device="cpu", sampler_timeout_seconds=seconds)
    return VLLMSampler(PYTHON, "float32", runtime, script=script)


def test_an_engine_that_dies_twice_ends_the_run_with_its_last_lines(
    script: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = tmp_path / "starts"
    script.write_text(
        SPEAKS + f"open({str(count)!r}, 'a').write('x')\nhear()\n"
        "print('Killed for its size', file=sys.stderr, flush=True)\nos._exit(3)\n"
    )
    with (
        sampler(script) as given,
        pytest.raises(TrainingError, match=r"exit code 3[\s\S]*Killed for its size[\s\S]*goes on"),
    ):
        given(world.policy(), world.prompts(2), sampling=WARM, keys=[0, 1])
    assert count.read_text() == "xx"
    assert "started again" in caplog.text


def test_an_engine_that_hangs_ends_the_run(script: Path) -> None:
    script.write_text(SPEAKS + "time.sleep(600)\n")
    with (
        sampler(script, 5.0) as given,
        pytest.raises(TrainingError, match=r"did not answer within"),
    ):
        given(world.policy(), world.prompts(2), sampling=WARM, keys=[0, 1])


def test_keys_and_prompts_that_do_not_match_are_refused_before_anything_starts(
    script: Path,
) -> None:
    policy = world.policy()
    with sampler(script) as given:
        assert given(policy, [], sampling=WARM, keys=[]) == []
        with pytest.raises(ValueError, match="keys"):
            given(policy, world.prompts(2), sampling=WARM, keys=[0])
        with pytest.raises(ConfigError, match="must fit the context"):
            given(policy, [[4] * 61], sampling=WARM, keys=[0])
        assert given.process is None


# What is installed


def test_without_an_environment_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs vLLM's environment.*make install-vllm"):
        vllm_python(RuntimeConfig(vllm_python=str(tmp_path / "bin" / "python")))


def test_an_environment_without_vllm_or_with_another_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has none; run `make install-vllm`"):
        vllm_python(RuntimeConfig(vllm_python=sys.executable))
    with pytest.raises(ConfigError, match=r"vLLM .=0.19.1, of .*. must be 0.32.0"):
        check_version("0.19.1", PYTHON)
    check_version("0.32.0+cu130", PYTHON)


def test_weights_that_are_spread_over_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be own under runtime.sharding=fsdp"):
        vllm_python(RuntimeConfig(device="cuda", processes=2, sharding="fsdp"))


def test_an_engine_of_another_version_is_refused(script: Path) -> None:
    """Where the environment was changed after the plan."""
    script.write_text(SPEAKS.replace(vllm_environment.VERSION, "0.31.0") + "hear()\n")
    with sampler(script) as given, pytest.raises(ConfigError, match=r"vLLM .=0.31.0"):
        given(world.policy(), world.prompts(2), sampling=WARM, keys=[0, 1])


# What an engine's errors mean


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        (
            "ValueError",
            "To serve at least one request with the models's max seq len (64), 1 GiB KV cache is "
            "needed, which is larger than the available KV cache memory",
            r"runtime.sampler_cache_gib .=2 GiB. must hold a row of the context .=64 tokens.",
        ),
        ("OutOfMemoryError", "CUDA is full", "runtime.sampler_cache_gib"),
        (
            "ValueError",
            "User-specified max_model_len (64) is greater than the derived max_model_len (32)",
            r"model.context .=64 tokens. must be at most the positions",
        ),
        (
            "ValueError",
            "Model architectures ['X'] are not supported for now.",
            r"must be own for this LlamaForCausalLM",
        ),
        ("RuntimeError", "the moon\nis full", r"vLLM failed .RuntimeError: the moon is full."),
    ],
)
def test_what_vllm_says_is_told_with_a_way_out(kind: str, said: str, message: str) -> None:
    error = refusal(EngineFailed(kind, said, "  line"), world.policy(), 2.0)
    assert isinstance(error, TrainingError if "moon" in said else ConfigError)
    with pytest.raises(type(error), match=message):
        raise error


def test_a_probe_tells_the_unscaled_distribution_from_another_model() -> None:
    draw = torch.Generator().manual_seed(0)
    plain = -3 * torch.rand(64, generator=draw)
    tempered = 1.3 * plain
    check_probe(tempered, plain, tempered + 5e-3, "float32")
    with pytest.raises(ConfigError, match="unscaled distribution"):
        check_probe(tempered, plain, plain + 1e-3, "float32")
    with pytest.raises(ConfigError, match="not the policy's"):
        check_probe(tempered, plain, tempered - 2.0, "float32")
    noise = 0.1 * torch.randn(64, generator=draw)
    check_probe(tempered, plain, tempered + noise, "bfloat16")
    with pytest.raises(ConfigError, match=r"to 0.01 nats"):
        check_probe(tempered, plain, tempered + noise, "float32")


# What is sent


def test_weights_are_written_whole_and_the_tied_head_once(memory: SharedWeights) -> None:
    policy = world.policy()
    entries = memory.write(policy.model, torch.bfloat16)
    state = policy.model.state_dict()
    assert {name for name, *_ in entries} == set(state) - {"lm_head.weight"}
    size = os.fstat(memory.file).st_size
    raw = os.pread(memory.file, size, 0)
    for name, dtype, shape, offset in entries:
        assert (dtype, offset % 64) == ("bfloat16", 0)
        weight = state[name].bfloat16()
        read = torch.frombuffer(
            bytearray(raw), dtype=torch.bfloat16, count=weight.numel(), offset=offset
        )
        assert torch.equal(read.view(shape), weight)
    untied = world.policy(tied=False).model
    assert "lm_head.weight" in whole_weights(untied)


def test_an_adapters_merged_weights_are_sent_and_its_own_stay() -> None:
    policy = with_adapter(world.policy(tied=False), AdapterConfig(rank=4), 0, "adapter")
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    held = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    sent = whole_weights(policy.model)
    assert all(torch.equal(w, held[name]) for name, w in policy.model.state_dict().items())
    whole = merged(policy).model.state_dict()
    assert set(sent) == set(whole)
    for name, weight in whole.items():
        assert torch.allclose(sent[name], weight, atol=1e-6), name


def test_an_adapter_that_is_no_lora_is_refused() -> None:
    model = get_peft_model(world.policy().model, IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="must be own for an adapter of kind"):
        whole_weights(model)


def test_the_config_names_the_models_class() -> None:
    text = config_text(world.policy())
    assert '"LlamaForCausalLM"' in text
    assert '"model_type": "llama"' in text


def test_the_engine_gets_a_device_and_not_torchruns_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    given, unset = environment(torch.device("cpu"))
    assert given["CUDA_VISIBLE_DEVICES"] == ""
    assert {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} <= set(unset)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert environment(torch.device("cuda:1"))[0]["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environment(torch.device("cuda:1"))[0]["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler_device": "auto"}, "runtime.sampler_device"),
        ({"sampler_device": "cuda:x"}, "runtime.sampler_device"),
        ({"sampler_cache_gib": 0.0}, "runtime.sampler_cache_gib"),
        ({"sampler_timeout_seconds": 0.0}, "runtime.sampler_timeout_seconds"),
    ],
)
def test_settings_of_the_engine_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RuntimeConfig(**changes)  # type: ignore[arg-type]
