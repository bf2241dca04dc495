"""The official archives of the data sets, and the splits that the studies take from them."""
