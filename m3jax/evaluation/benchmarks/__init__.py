"""BEIR, MIRACL, MKQA and MLDR by name: `open.open_benchmark`."""
