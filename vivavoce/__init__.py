"""vivavoce makes a face speak: portraits and videos driven by audio, from a file or live."""

__version__ = "0.1.0"
