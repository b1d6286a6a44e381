"""Launches polytune/app/export.py (`polytune export`): `python recipes/export.py [--help]`."""

from polytune.app.export import main, run

if __name__ == "__main__":
    run(main)
