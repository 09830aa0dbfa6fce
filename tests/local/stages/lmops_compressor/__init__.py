"""The compressor's place in tests of the laptop."""
