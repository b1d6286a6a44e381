"""Runs a program whose clock is set back an hour at every fifth look:

python tests/integration/clock_jumps.py PROGRAM.py [arguments]
"""

import runpy
import sys
import time

real, looks = time.time, 0


def jumping():
    global looks
    looks += 1
    return real() - 3600 * (looks // 5)


if __name__ == "__main__":
    time.time = jumping
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
