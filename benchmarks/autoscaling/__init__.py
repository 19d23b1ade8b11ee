"""Does the autoscaler follow the load? A simulator, the autoscaler's own arithmetic, and a live proof."""
