"""Figures and tables of the book, one module for each group of chapters."""
