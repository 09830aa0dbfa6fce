"""A server for tests of the laptop."""
