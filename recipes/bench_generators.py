"""Launches polytune/app/bench_generators.py: `python recipes/bench_generators.py [--help]`."""

from polytune.app.bench_generators import main, run

if __name__ == "__main__":
    run(main)
