"""What becomes of freed memory: a process that keeps it gets the next block without a page fault."""

import os
import subprocess
import sys

import pytest

_FAULTS_OF_A_SECOND_BLOCK = """
import resource
from mvead_jax.runtime.memory import keep_freed_memory
{call}
block = bytearray(b"x") * 2**26
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(b"x") * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call="", **variables):
    known = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _FAULTS_OF_A_SECOND_BLOCK.format(call=call)]
    return int(
        subprocess.run(command, env=known | variables, capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_freed_memory_is_used_again():
    assert faults() > 10_000  # 64 MiB in pages of 4 KiB
    assert faults("keep_freed_memory()") < 1_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's allocator")
def test_a_setting_of_the_user_stays():
    assert faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="100000") > 10_000
