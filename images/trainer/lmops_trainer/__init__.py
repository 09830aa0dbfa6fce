"""The trainer: three stages, prepare, train and evaluate, each given one document as its one argument."""
