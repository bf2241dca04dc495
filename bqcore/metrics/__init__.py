"""Measures of decisions and of decision boundaries: arrays, networks and slices in, numbers out."""
