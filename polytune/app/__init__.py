"""The programs, their command lines and the `polytune` command."""
