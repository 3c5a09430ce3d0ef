"""The page that a run leaves: what is kept for it, and how it is made from the folder alone."""
