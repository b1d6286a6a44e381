"""Launches polytune/app/reproduce.py (`polytune reproduce`): `python recipes/reproduce.py [--help]`."""

from polytune.app.reproduce import main, run

if __name__ == "__main__":
    run(main)
