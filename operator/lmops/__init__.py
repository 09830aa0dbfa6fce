"""The life of a language model as Kubernetes resources: train it, compress it, serve it."""

__version__ = "0.1.0"
"""Said here too, for an image holds the sources and no metadata of a distribution."""
