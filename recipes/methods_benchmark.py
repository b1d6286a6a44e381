"""Launches polytune/app/methods_benchmark.py: `python recipes/methods_benchmark.py [--help]`."""

from polytune.app.methods_benchmark import main, run

if __name__ == "__main__":
    run(main)
