"""How programs live and die: processes that watch each other, checkpoints, the queue of runs, who made what."""
