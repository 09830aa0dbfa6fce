"""Stages of a few lines each, in place of the real trainer: they speak to the engine just as it does."""
