"""Writers of detector files, independent of the readers: they share no code, only the published layouts."""
