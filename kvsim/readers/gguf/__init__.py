"""A GGUF file's metadata as a model spec."""
