"""Launches polytune/app/compare.py (`polytune compare`): `python recipes/compare.py [--help]`."""

from polytune.app.compare import main, run

if __name__ == "__main__":
    run(main)
