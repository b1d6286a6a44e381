"""Launches polytune/app/tutorial.py (`polytune tutorial`): `python recipes/tutorial.py [--help]`."""

from polytune.app.tutorial import main, run

if __name__ == "__main__":
    run(main)
