"""Launches polytune/app/pretrain.py (`polytune pretrain`): `python recipes/pretrain.py [--help]`."""

from polytune.app.pretrain import main, run

if __name__ == "__main__":
    run(main)
