"""Detectors as files that other runtimes run, and the check that they still find the same."""
