"""What each kind of test set says of a model, as an `Outcome`."""
