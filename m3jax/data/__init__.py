"""From files to rows: records, sources and the built-in set."""
