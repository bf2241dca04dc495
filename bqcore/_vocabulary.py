"""What the measures are called, and in which units: one table, for every dataset that the package makes."""

UNITS = "input units"  # stands for those of the model's inputs
RATE = "fraction"
LONG_NAMES = {
    # decisions
    "samples": ("samples", "count"), "band_samples": ("samples in the low-margin boundary band", "count"),
    "band_margin": ("largest float margin in the band", "1"), "near_ties": ("top-2 margins below 1e-6", "count"),
    "tied_flips": ("flips that are ties of the candidate's largest scores", "count"),
    "unchanged": ("samples whose float top-2 pair has exactly the same margin", "count"),
    "flip_rate": ("flip rate", RATE), "right_to_wrong": ("flips from right to wrong", RATE),
    "wrong_to_right": ("flips from wrong to right", RATE),
    "wrong_to_other": ("flips from wrong to another wrong class", RATE),
    "band_flip_rate": ("low-margin boundary-band flips", "fraction of the band"),
    "flips_in_band": ("flips inside the boundary band", "count"), "pair_order_flip_rate": ("pair-order flips", RATE),
    "band_pair_order_flip_rate": ("boundary-band pair-order flips", "fraction of the band"),
    "accuracy_reference": ("accuracy of the reference", RATE), "accuracy": ("accuracy of the candidate", RATE),
    "margin_change": ("change of the float top-2 pair's margin, magnitude", "1"),
    "flipped_sample": ("index of a flipped held-out sample, by growing float margin", "1"),
    "flipped_id": ("its name", "1"),
    "flipped_margin": ("its float top-2 margin", "1"),
    "flipped_moved": ("the candidate's margin of the same pair", "1"),
    "flipped_from": ("the reference's decision", "class"), "flipped_to": ("the candidate's decision", "class"),
    "flipped_in_band": ("whether it is in the boundary band", "flag"),
    "flipped_target": ("true class, -1 if not given", "class"), "pair_from": ("the reference's decision", "class"),
    "pair_to": ("the candidate's decision", "class"), "pair_flips": ("held-out flips", "count"),
    "decided_reference": ("held-out decisions of the reference", "count"),
    "decided_candidate": ("of the candidate", "count"), "decided_both": ("of both", "count"),
    "group_samples": ("samples of a group by growing float margin", "count"), "group_flips": ("their flips", "count"),
    "group_margin": ("their largest float margin", "1"),
    # around inputs
    "radius": ("local logit-margin radius", UNITS),
    "displacement": ("first-order boundary displacement, magnitude", UNITS),
    "signed_distance_change": ("signed distance change, free of scale, magnitude", UNITS),
    "normal_variation": ("normal variation, 1 - cos", "1"),
    "third_class": ("samples decided for a class outside the float top-2 pair", RATE),
    "flat_pairs": ("pairs whose margin has no gradient", "count"),
    "flat_margins": ("top-2 margins without a gradient", "count"),
    "gradient_samples": ("held-out samples that displacement is measured on", "count"),
    "radius_samples": ("held-out samples that the radius is measured on", "count"),
    "quantile": ("quantile over the inputs", "1"),
    # on slices
    "boundary_jaccard": ("boundary-mask Jaccard distance", "1"), "no_boundary": ("no boundary on either slice", "flag"),
    "effective_displacement": ("shift that explains the Jaccard distance, d_eff", UNITS),
    "tolerance_jaccard": ("tolerance Jaccard distance", "fraction of the boundaries' length"),
    "tau": ("tolerance, as a fraction of the slice's longer side", "1"), "side": ("longer side of the slice", UNITS),
    "grid_change": ("grid prediction change", "fraction of nodes"),
    "junctions": ("triple junctions: cells of a grid, or points of an exact boundary", "count"),
    "outside": ("fraction of the slice where some value is outside its range in the data", "fraction of the slice"),
    "slice_samples": ("samples that the slice is spanned by", "count"),
    "nodes": ("nodes a side of the slice grid", "count"), "step_a": ("grid step along a", UNITS),
    "step_b": ("grid step along b", UNITS), "labels": ("class at each node of the slice", "class"),
    "a": ("first axis of the slice", UNITS), "b": ("second axis of the slice", UNITS),
    "class_name": ("name of the class", "name"),
    # bits and bytes
    "bytes": ("packed weights with their steps", "byte"), "weights": ("weights of the layer", "count"),
    "layer_bits": ("bits of the layer", "bit"), "flips_by": ("flips by what of the two brings them about", "count"),
}  # fmt: skip


def describe(dataset, names: dict = LONG_NAMES, units: str = UNITS) -> None:
    """Write (long name, units) into a dataset, of each variable that *names* has; *units* are those of the inputs."""
    for name in dataset.variables:
        if name in names:
            long_name, unit = names[name]
            dataset[name].attrs = {"long_name": long_name, "units": units if unit == UNITS else unit}
