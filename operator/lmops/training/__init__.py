"""TrainingJob: from a resource to data preparation, a distributed run and an evaluation."""
