"""Launches polytune/app/evaluate.py (`polytune evaluate`): `python recipes/evaluate.py [--help]`."""

from polytune.app.evaluate import main, run

if __name__ == "__main__":
    run(main)
