"""What lies in the folder of a model, by the forms of its names: weights, configuration and tokenizer."""

from __future__ import annotations

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.onnx", "*.onnx.data", "*.pte")
CONFIG = ("config.json", "generation_config.json", "*.py")
"""With the code that it names, where a model brings its own."""
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "encoder.json", "*.model", "*.spm", "*.bpe", "*.tiktoken", "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
