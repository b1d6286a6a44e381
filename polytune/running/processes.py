"""Several processes: who watches them, and how they end."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch.distributed as dist

from polytune.running import watchdog
from polytune.running.peers import Peers, keep_timeout
from polytune.running.watchdog import Watchdog, stacks_on_demand

_peers: Peers | None = None
_watchdog: Watchdog | None = None


def supervise(args: Any) -> None:
    """Watch this process (``hang_timeout``) and the others of the run until :func:`release`; call it in all of them.

    args: a PolychromicConfig; its ranks, ``hang_timeout`` and ``ddp_timeout`` (seconds) and ``output_dir`` are read.
    """
    global _peers, _watchdog
    if hasattr(signal, "SIGUSR1"):
        stacks_on_demand()
    if args.hang_timeout:
        who = f"process {args.process_index} of {args.world_size} (pid {os.getpid()})"
        _watchdog = Watchdog(args.hang_timeout, who, args.output_dir)
        _watchdog.start()
    if args.world_size > 1:
        keep_timeout(args.ddp_timeout)
        _peers = Peers(args.process_index, args.world_size, args.output_dir)


def settle() -> None:
    """After an error: where another process has caused it, this one ends here and says so."""
    if _peers is not None:
        _peers.settle()


def release(failure: str | None) -> None:
    """The run is over for this process, with an error or without: nobody watches it any more, the others know why."""
    global _peers, _watchdog
    peers, own, _peers, _watchdog = _peers, _watchdog, None, None
    if own is not None:
        own.stop()
    if peers is not None:
        peers.leave(failure)


def stage_of(error: BaseException) -> str:
    """`` (in stage 'NAME')``, where an error came up in one, for the end of its line."""
    found = watchdog.stage_of(error)
    return f" (in stage {found!r})" if found else ""


def waited_too_long(error: BaseException) -> str | None:
    """The line for a collective operation that timed out, None for any other error."""
    text = str(error).lower()
    if _peers is None or not dist.is_initialized() or not isinstance(error, RuntimeError):
        return None
    if "timed out" not in text and "timeout" not in text:
        return None
    return (
        f"this process waited for another one longer than ddp_timeout allows ({' '.join(str(error).split())[:200]}): "
        "one of them hangs, and says where after hang_timeout, or is that much slower. The same command continues from "
        "the last checkpoint."
    )
