"""What will hurt a training run, said before its first epoch: `saccade doctor`."""
