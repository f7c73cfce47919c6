"""`saccade predict`: what is found in files, written and drawn."""
