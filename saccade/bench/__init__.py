"""Side-by-side measurements: the operator and whoever else calculates it."""
