"""Launches polytune/app/speedrun.py: `python recipes/speedrun.py [--help]`."""

from polytune.app.speedrun import main, run

if __name__ == "__main__":
    run(main)
