"""QuantizeJob: what its one run wants created, and what its result means."""
