"""The exact laboratory: worlds so small that everything about a policy can be computed (`exact.py`)."""
