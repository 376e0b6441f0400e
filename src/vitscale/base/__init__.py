"""What everything may use: errors, YAML, files, digests, progress, the entries of params.yaml."""
