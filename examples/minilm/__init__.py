"""A sentence encoder from a common package: all-MiniLM-L6-v2, compared with itself."""
