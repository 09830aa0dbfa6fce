"""The runtime of a LanguageModelService: one model behind the protocols that people's clients speak."""
