"""Launches polytune/app/bench_critic.py: `python recipes/bench_critic.py [--help]`."""

from polytune.app.bench_critic import main, run

if __name__ == "__main__":
    run(main)
