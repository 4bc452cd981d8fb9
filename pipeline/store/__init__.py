"""Objects by key: a directory, S3."""
