"""Pictures: coverage curves, vines on maps, films, what trackers are sent."""
