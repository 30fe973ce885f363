"""Collections that can be searched: made by a run, kept in a folder, asked in words and pictures."""
