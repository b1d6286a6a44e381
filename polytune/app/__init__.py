"""The programs, their command lines and the `polytune` command."""

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()]:
    # `python -m polytune.app.NAME` is being looked up: a user's random.py or code.py there must hide nothing
    sys.path.append(sys.path.pop(0))
