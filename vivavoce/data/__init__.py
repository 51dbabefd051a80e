"""Person folders and pictures as sources of Clips."""
