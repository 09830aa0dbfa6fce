"""The laptop engine: the same reconcile as on a cluster, over objects kept in files and pods that are processes."""
