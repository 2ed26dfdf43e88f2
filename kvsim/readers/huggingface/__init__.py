"""A Hugging Face ``config.json`` as a model spec."""
