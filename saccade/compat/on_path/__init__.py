"""What ``python -m saccade.compat`` puts on the path of the processes that a script starts."""
