"""Pictures in: which files are meant, how one is read, and the frames of videos."""
