"""Every reading of the paper's words that can be defended, crossed, and each claim judged in all of them."""
