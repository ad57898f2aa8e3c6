"""What cameras see of Gaussians that know their objects: maps by name, the object of each pixel, the glow of a selection.

In: projected Gaussians, features, what an edit changed. Out: maps, ids, `Look`. `blends` has functions of tensors, `drawn_model` puts them on
nerfstudio's splatfacto. May not: train, or change a parameter.
"""
