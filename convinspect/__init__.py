"""See and change the pointwise layers of a saved PyTorch model, without running the model."""

__version__ = "0.1.0"
