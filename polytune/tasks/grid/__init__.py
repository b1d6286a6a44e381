"""Grid worlds of MiniGrid, shown as one line of words per turn."""
