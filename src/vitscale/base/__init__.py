"""What everything may use: errors, YAML, files, digests, downloads, progress, the entries of params.yaml."""
