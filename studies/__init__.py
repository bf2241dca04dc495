"""The studies of the paper: what is run, on what data, how it is judged, and its figures. Runs from the clone."""
