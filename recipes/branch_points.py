"""Launches polytune/app/branch_points.py: `python recipes/branch_points.py [--help]`."""

from polytune.app.branch_points import main, run

if __name__ == "__main__":
    run(main)
