"""Runs a recipe under FSDP2 on a CPU: accelerate shards on GPUs only, torch on both. Takes gloo for NCCL, "cpu" for
"cuda", and leaves everything else as it is: python sharded_on_cpu.py RECIPE [FLAGS]."""

import os
import runpy
import sys

os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"}

from accelerate.state import PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402

PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
