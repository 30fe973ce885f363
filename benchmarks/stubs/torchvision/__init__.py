"""The few names of torchvision that open_clip imports and that a training step never calls.

For the benchmark environment only: the compiled parts of torchvision tie an environment to one build
of torch.
"""

__version__ = "0.0.0"
