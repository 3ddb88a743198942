"""Memory of log-probs at the vocabulary of today's models, measured in processes of their own."""

import json
import subprocess
import sys

import pytest
from places import ROOT


@pytest.mark.slow
def test_slices_of_the_head_take_a_fraction_of_the_memory_and_give_the_same_numbers():
    """At 4 x 512 tokens of 151,936 words the logits alone are 1,187 MiB, and a plain pass holds
    them and their log-softmax, or its gradient, at once. A slice is 128 MiB however many tokens.
    """
    command = [sys.executable, str(ROOT / "scripts" / "bench_head_memory.py")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    logits_mib = 4 * 512 * 151_936 * 4 / 2**20
    assert found["peak_mib_plain"] > 2 * logits_mib
    assert found["peak_mib_chunked"] < logits_mib
    for name, apart in found["largest_difference"].items():
        assert found["largest_value"][name] > 0, name
        assert apart <= 1e-5 * found["largest_value"][name], name
