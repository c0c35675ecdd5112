"""The version of Renaissance: that of the package, in the configuration of each checkpoint, and on its card."""

VERSION = "0.1.0"

__all__ = ["VERSION"]
