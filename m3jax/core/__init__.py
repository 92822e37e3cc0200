"""What every other part stands on: types, mesh, trees, configs, errors."""
