"""The processes of a run end together, within seconds and with the reason.

Every process keeps a TCP connection to process 0, next to those of torch. The system closes it when a process dies,
whatever killed it, also on another machine and while the others are in the middle of rollouts; then they say which one
is gone and end with status 1. A process that ends by an error says so first. A thread does all this, because the main
thread may be waiting in a collective operation; it also takes SIGTERM, which torchrun sends to the others when one of
its processes has died, and notices when torchrun itself is gone.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from polytune.running.checkpoints import newest
from polytune.running.watchdog import where

#: seconds: between two looks at the parent; to learn who is gone after SIGTERM or an error; for an exit that hangs
LOOK, SETTLE, EXIT = 1.0, 2.0, 30.0
HELLO, DONE, FAILED, GONE = "hello", "done", "failed", "gone"


class Peers:
    """Watches the other processes of the run. Built in all processes at once, in the main thread.

    Args:
        rank, world: of this process, and how many there are.
        output_dir: of the run, whose newest checkpoint the messages name.
    """

    def __init__(self, rank: int, world: int, output_dir: str):
        self.rank, self.world, self.output_dir = rank, world, output_dir
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._loss: str | None = None
        self._ending = threading.Event()
        self._peers: dict[socket.socket, int] = {}
        self._finished: set[int] = set()
        self._text: dict[socket.socket, str] = {}
        self._selector = selectors.DefaultSelector()
        self._connect()
        self._signals, ours = socket.socketpair()
        for end in (self._signals, ours):
            end.setblocking(False)
        self._sigterm = ours  # kept open: the system writes to it
        signal.signal(signal.SIGTERM, lambda *_: None)  # the thread acts: this one may not get to run Python code
        signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    # ------------------------------------------------------------------ connections

    def _connect(self) -> None:
        """Process 0 listens where torch's processes meet, the others call; all of them, or the run says who not."""
        host = os.environ.get("MASTER_ADDR", "localhost")
        listener, word = None, [None]
        if self.rank == 0:
            listener = _listen(host)
            word = [(listener.getsockname()[1], secrets.token_hex(8))]
        dist.broadcast_object_list(word, src=0)
        port, token = word[0]
        failure = None
        try:
            if listener is None:
                self._add(_call(host, port, f"{HELLO} {self.rank} {token}\n"), 0)
            else:
                self._accept(listener, token)
        except OSError as error:
            failure = f"process {self.rank}: {type(error).__name__}: {error}"
        failures: list[str | None] = [None] * self.world
        dist.all_gather_object(failures, failure)
        if listener is not None:
            listener.close()
        if any(failures) and self.rank == 0:
            print(
                f"warning: not every process reaches process 0 at {host}:{port} "
                f"({'; '.join(text for text in failures if text)}): one that dies is noticed at the next collective "
                "operation only, or after ddp_timeout. Open the ports between the machines.",
                file=sys.stderr,
                flush=True,
            )

    def _accept(self, listener: socket.socket, token: str) -> None:
        listener.settimeout(30.0)
        while len(self._peers) < self.world - 1:
            connection, _ = listener.accept()
            connection.settimeout(5.0)
            with connection.makefile("r") as file:
                words = file.readline().split()
            if len(words) == 3 and words[0] == HELLO and words[2] == token:
                self._add(connection, int(words[1]))
            else:
                connection.close()

    def _add(self, connection: socket.socket, rank: int) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._peers[connection], self._text[connection] = rank, ""
        self._selector.register(connection, selectors.EVENT_READ)

    def _tell(self, text: str, *, but: int | None = None) -> None:
        for connection, rank in self._peers.items():
            if rank != but:
                try:
                    connection.sendall(text.encode())
                except OSError:
                    continue  # it is gone itself

    # ------------------------------------------------------------------ the thread

    def _watch(self) -> None:
        terminated: float | None = None
        while not self._ending.is_set():
            for key, _ in self._selector.select(LOOK if terminated is None else 0.1):
                if key.fileobj is self._signals:
                    if signal.SIGTERM in self._signals.recv(64):
                        terminated = time.monotonic() if terminated is None else terminated
                else:
                    self._hear(key.fileobj)
            if self._ending.is_set():
                return
            if self._loss is not None:
                self._end(self._loss)
            if terminated is not None and time.monotonic() - terminated > SETTLE:
                self._end("it was told to stop (SIGTERM), as launchers do when they are stopped or a process has died")
            if self._parent is not None and os.getppid() != self._parent:
                self._end("its launcher is gone")

    def _hear(self, connection: socket.socket) -> None:
        rank = self._peers[connection]
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._text[connection] += data.decode(errors="replace")
        *lines, self._text[connection] = self._text[connection].split("\n")
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == DONE:
                self._finished.add(rank)
            elif word == FAILED:
                self._lose(f"process {rank} has ended with an error{f' ({rest})' if rest else ''}", rank)
            elif word == GONE:
                self._lose(rest, rank)
        if not data:
            self._selector.unregister(connection)
            if rank not in self._finished:
                self._lose(f"process {rank} is gone (killed, crashed, or its machine failed)", rank)

    def _lose(self, text: str, rank: int) -> None:
        """The first loss counts; process 0 passes it on."""
        if self._loss is None:
            self._loss = text
            if self.rank == 0:
                self._tell(f"{GONE} {text}\n", but=rank)

    def _end(self, why: str) -> None:
        """Leave at once: the main thread may never come back from what it is doing."""
        sys.stdout.flush()
        told = f"{why}. This one was in stage {where()!r}. {newest(self.output_dir)}"
        print(f"error: process {self.rank} stops: {told}", file=sys.stderr, flush=True)
        if self._parent is not None:
            time.sleep(SETTLE)  # so that torchrun blames the process that died first, not this one
        os._exit(1)

    # ------------------------------------------------------------------ the main thread's end

    def settle(self) -> None:
        """After an error: give the thread time to find out that another process caused it; it ends the process."""
        time.sleep(SETTLE)

    def leave(self, failure: str | None) -> None:
        """Tell the others that this process is done, or what has gone wrong; they stop with it."""
        self._tell(f"{DONE}\n" if failure is None else f"{FAILED} {' '.join(failure.split())}\n")
        self._ending.set()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if failure is not None:  # an exit that waits for a collective operation of the others never ends
            timer = threading.Timer(EXIT, os._exit, (1,))
            timer.daemon = True
            timer.start()


def _listen(host: str) -> socket.socket:
    try:
        return socket.create_server((host, 0), backlog=1024)
    except OSError:  # the name is that of a gateway in front of this machine
        return socket.create_server(("", 0), backlog=1024)


def _call(host: str, port: int, greeting: str) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=20.0)
    connection.sendall(greeting.encode())
    return connection


def keep_timeout(seconds: float) -> None:
    """Give the processes' group ``ddp_timeout``: transformers does not on CPUs."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))
