"""The audit of one's own classifier: two classifiers compared, bit-widths swept, layers ranked, bits planned."""
