"""Network parts used by two methods or more, or large enough for a file; docs/architecture.md says which family has which."""
