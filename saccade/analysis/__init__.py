"""Pictures and studies of what detectors do."""
