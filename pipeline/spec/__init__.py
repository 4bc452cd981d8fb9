"""YAML → frozen, validated types: the only reader of YAML."""
