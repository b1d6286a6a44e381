"""How the tests share a machine: a core for each worker, slow files first, no garbage collection over the libraries."""

import gc
import os

import pytest

gc.disable()  # what imports make stays: looking through it again and again is a fifth of the time of importing


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """From here on garbage is collected, among what the tests themselves make."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config):
    """Each worker of pytest-xdist keeps to one core: those whose threads crowd the same cores slow each other down."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if worker.startswith("gw") and len(cores) > 1:
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


def pytest_collection_modifyitems(items):
    """Files with slow tests first: what the workers of pytest-xdist share at the end is short."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
