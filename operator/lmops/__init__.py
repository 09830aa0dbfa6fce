"""The life of a language model as Kubernetes resources: train it, compress it, serve it."""
