"""The runtime of a QuantizeJob: it compresses a model, measures it beside the original, and judges."""
