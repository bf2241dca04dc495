"""Quantizers of weights: PTQ-W, optimized rounding and its rivals, mixed precision, and the choice of bits."""
