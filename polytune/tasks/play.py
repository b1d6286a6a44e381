"""`python -m polytune.tasks.play` is `polytune play`: the program lives in `polytune.app.play`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("polytune.app.play", run_name="__main__", alter_sys=True)
