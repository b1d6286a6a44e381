"""Algorithmic Creativity: structures of which a policy is to name new ones."""
