"""Where rows come from: one random-access source for every kind of file."""
