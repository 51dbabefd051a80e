"""Video -> a person folder: one file = one step = one artefact."""
