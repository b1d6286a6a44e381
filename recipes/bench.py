"""Launches polytune/app/bench.py (`polytune bench`): `python recipes/bench.py [--help]`."""

from polytune.app.bench import main, run

if __name__ == "__main__":
    run(main)
