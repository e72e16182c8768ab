"""Names of features: pyradiomics' own and those of the Image Biomarker Standardization Initiative (IBSI).

The tags are those of the IBSI-1 reference value tables (Zwanenburg et al., Radiology 2020;295:328-338). A feature that
IBSI does not define keeps pyradiomics' name. Where pyradiomics' value differs from IBSI's by definition, the value
under the IBSI tag is IBSI's:

- kurtosis: IBSI's is the excess kurtosis, pyradiomics' minus 3;
- principal axis lengths: IBSI takes the sample covariance of the voxel centers, pyradiomics the population covariance,
  a factor sqrt(n / (n - 1)) for n voxels.

Dissimilarity and sum variance, which pyradiomics leaves out because they equal difference average and cluster
tendency, are there under their IBSI tags.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_MORPHOLOGY = {
    "MeshVolume": "volume",
    "VoxelVolume": "vol_approx",
    "SurfaceArea": "area_mesh",
    "SurfaceVolumeRatio": "av",
    "Sphericity": "sphericity",
    "Maximum3DDiameter": "diam",
    "MajorAxisLength": "pca_maj_axis",
    "MinorAxisLength": "pca_min_axis",
    "LeastAxisLength": "pca_least_axis",
    "Elongation": "pca_elongation",
    "Flatness": "pca_flatness",
}
_STATISTICS = {
    "Mean": "stat_mean",
    "Variance": "stat_var",
    "Skewness": "stat_skew",
    "Kurtosis": "stat_kurt",
    "Median": "stat_median",
    "Minimum": "stat_min",
    "10Percentile": "stat_p10",
    "90Percentile": "stat_p90",
    "Maximum": "stat_max",
    "InterquartileRange": "stat_iqr",
    "Range": "stat_range",
    "MeanAbsoluteDeviation": "stat_mad",
    "RobustMeanAbsoluteDeviation": "stat_rmad",
    "Energy": "stat_energy",
    "RootMeanSquared": "stat_rms",
    "Entropy": "ih_entropy",
    "Uniformity": "ih_uniformity",
}
_COOCCURRENCE = {
    "MaximumProbability": "joint_max",
    "JointAverage": "joint_avg",
    "SumSquares": "joint_var",
    "JointEntropy": "joint_entr",
    "DifferenceAverage": "diff_avg",
    "DifferenceVariance": "diff_var",
    "DifferenceEntropy": "diff_entr",
    "SumAverage": "sum_avg",
    "SumEntropy": "sum_entr",
    "JointEnergy": "energy",
    "Contrast": "contrast",
    "Id": "inv_diff",
    "Idn": "inv_diff_norm",
    "Idm": "inv_diff_mom",
    "Idmn": "inv_diff_mom_norm",
    "InverseVariance": "inv_var",
    "Correlation": "corr",
    "Autocorrelation": "auto_corr",
    "ClusterTendency": "clust_tend",
    "ClusterShade": "clust_shade",
    "ClusterProminence": "clust_prom",
    "Imc1": "info_corr1",
    "Imc2": "info_corr2",
}
_RUN_LENGTH = {
    "ShortRunEmphasis": "sre",
    "LongRunEmphasis": "lre",
    "LowGrayLevelRunEmphasis": "lgre",
    "HighGrayLevelRunEmphasis": "hgre",
    "ShortRunLowGrayLevelEmphasis": "srlge",
    "ShortRunHighGrayLevelEmphasis": "srhge",
    "LongRunLowGrayLevelEmphasis": "lrlge",
    "LongRunHighGrayLevelEmphasis": "lrhge",
    "GrayLevelNonUniformity": "glnu",
    "GrayLevelNonUniformityNormalized": "glnu_norm",
    "RunLengthNonUniformity": "rlnu",
    "RunLengthNonUniformityNormalized": "rlnu_norm",
    "RunPercentage": "r_perc",
    "GrayLevelVariance": "gl_var",
    "RunVariance": "rl_var",
    "RunEntropy": "rl_entr",
}
_SIZE_ZONE = {
    "SmallAreaEmphasis": "sze",
    "LargeAreaEmphasis": "lze",
    "LowGrayLevelZoneEmphasis": "lgze",
    "HighGrayLevelZoneEmphasis": "hgze",
    "SmallAreaLowGrayLevelEmphasis": "szlge",
    "SmallAreaHighGrayLevelEmphasis": "szhge",
    "LargeAreaLowGrayLevelEmphasis": "lzlge",
    "LargeAreaHighGrayLevelEmphasis": "lzhge",
    "GrayLevelNonUniformity": "glnu",
    "GrayLevelNonUniformityNormalized": "glnu_norm",
    "SizeZoneNonUniformity": "zsnu",
    "SizeZoneNonUniformityNormalized": "zsnu_norm",
    "ZonePercentage": "z_perc",
    "GrayLevelVariance": "gl_var",
    "ZoneVariance": "zs_var",
    "ZoneEntropy": "zs_entr",
}
_DEPENDENCE = {
    "SmallDependenceEmphasis": "lde",
    "LargeDependenceEmphasis": "hde",
    "LowGrayLevelEmphasis": "lgce",
    "HighGrayLevelEmphasis": "hgce",
    "SmallDependenceLowGrayLevelEmphasis": "ldlge",
    "SmallDependenceHighGrayLevelEmphasis": "ldhge",
    "LargeDependenceLowGrayLevelEmphasis": "hdlge",
    "LargeDependenceHighGrayLevelEmphasis": "hdhge",
    "GrayLevelNonUniformity": "glnu",
    "DependenceNonUniformity": "dcnu",
    "DependenceNonUniformityNormalized": "dcnu_norm",
    "GrayLevelVariance": "gl_var",
    "DependenceVariance": "dc_var",
    "DependenceEntropy": "dc_entr",
}
_TONE_DIFFERENCE = {name: name.lower() for name in ("Coarseness", "Contrast", "Busyness", "Complexity", "Strength")}

_DIRECTIONAL = {"glcm": ("cm", _COOCCURRENCE), "glrlm": ("rlm", _RUN_LENGTH)}
_ZONAL = {"glszm": ("szm", _SIZE_ZONE), "gldm": ("ngl", _DEPENDENCE), "ngtdm": ("ngt", _TONE_DIFFERENCE)}
_TWINS = {"cm_diff_avg": "cm_dissimilarity", "cm_clust_tend": "cm_sum_var"}
_AXES = {"morph_pca_maj_axis", "morph_pca_min_axis", "morph_pca_least_axis"}


def ibsi_tag(feature_class: str, feature: str, *, force_2d: bool = False) -> str | None:
    """The IBSI tag of a pyradiomics feature ("glcm", "Contrast" -> "cm_contrast_3D_avg"); None where IBSI has none.

    pyradiomics averages over directions and merges slices, which IBSI calls 3D_avg, with `force2D` 2_5D_avg.
    """
    dimension = "2_5D" if force_2d else "3D"
    if feature_class == "shape" and feature in _MORPHOLOGY:
        return f"morph_{_MORPHOLOGY[feature]}"
    if feature_class == "firstorder":
        return _STATISTICS.get(feature)
    if feature_class in _DIRECTIONAL and feature in _DIRECTIONAL[feature_class][1]:
        prefix, tags = _DIRECTIONAL[feature_class]
        return f"{prefix}_{tags[feature]}_{dimension}_avg"
    if feature_class in _ZONAL and feature in _ZONAL[feature_class][1]:
        prefix, tags = _ZONAL[feature_class]
        return f"{prefix}_{tags[feature]}_{dimension}"
    return None


def ibsi_values(values: Mapping[str, float], *, voxels: int, force_2d: bool = False) -> dict[str, float]:
    """A region's pyradiomics features ("<image type>_<class>_<feature>") under IBSI names and definitions."""
    renamed: dict[str, float] = {}
    for name, value in values.items():
        image_type, feature_class, feature = name.rsplit("_", 2)
        tag = ibsi_tag(feature_class, feature, force_2d=force_2d)
        if tag is None:
            renamed[name] = value
            continue
        if tag == "stat_kurt":
            value = value - 3
        elif tag in _AXES:
            value = value * math.sqrt(voxels / (voxels - 1)) if voxels > 1 else value
        renamed[f"{image_type}_{tag}"] = value
        for tag_of_twin, twin in _TWINS.items():
            if tag.startswith(tag_of_twin):
                renamed[f"{image_type}_{tag.replace(tag_of_twin, twin)}"] = value
    return renamed
