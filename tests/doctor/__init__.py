"""Tests of what the doctor finds, and of what it leaves alone."""
