"""The release pipeline for IREE: models in, verified fat vmfbs with manifests out."""

__version__ = "0.1.0"
