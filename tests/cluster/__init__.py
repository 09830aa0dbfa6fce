"""A real Kubernetes for the tests, compiled from Go modules: a control plane for most of them, and a node with pods."""
