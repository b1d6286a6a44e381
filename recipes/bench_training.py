"""Launches polytune/app/bench_training.py: `python recipes/bench_training.py [--help]`."""

from polytune.app.bench_training import main, run

if __name__ == "__main__":
    run(main)
