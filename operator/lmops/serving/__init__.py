"""LanguageModelService: which model it has, the InferenceService that it wants, and how that stands."""
