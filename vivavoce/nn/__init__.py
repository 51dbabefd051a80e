"""Network parts used by two methods or more."""
