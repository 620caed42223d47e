"""edgewright: one PyTorch model in; for every device that you name, a small, verified package out."""

__version__ = "0.1.0"
