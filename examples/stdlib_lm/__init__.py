"""A small Llama-style language model of Python's own standard library, trained here on one CPU thread."""
