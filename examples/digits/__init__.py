"""Handwritten digits: a small convolutional classifier."""
