"""Launches polytune/app/finetune.py (`polytune finetune`): `accelerate launch recipes/finetune.py [--help]`."""

from polytune.app.finetune import main, run

if __name__ == "__main__":
    run(main)
