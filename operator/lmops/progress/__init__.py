"""How pods tell their progress: one endpoint, over HTTP on a laptop and over HTTPS on a cluster."""
