import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from errseg_jax.host_memory import keep_freed_memory

{call}

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

np.ones(100_000_000, np.uint8)
before = faults()
np.ones(100_000_000, np.uint8)
print(faults() - before)
"""


def second_allocation_faults(call):
  run = subprocess.run(
    [sys.executable, "-c", SCRIPT.format(call=call)], capture_output=True, text=True, check=True
  )
  return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_freed_buffer_is_used_again_without_page_faults():
  # Huge pages can make the faults few either way: what counts is that reuse has next to none.
  assert second_allocation_faults("keep_freed_memory()") < min(30, second_allocation_faults("pass"))
