"""Detectors behind HTTP: `saccade serve`. Needs the extra ``serve``; import its files by name."""
