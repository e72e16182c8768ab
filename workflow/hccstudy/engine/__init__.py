"""The fast engine: pyradiomics' features of a region, equal in value, by compiled kernels.

Follow one region: `resampling` (the image on the wanted grid) -> `filters` (derived images) -> `discretization` (gray
levels) -> `matrices` (co-occurrences, runs, zones, ...) -> `formulae` (texture features), with `statistics` (first-order
features) and `shape` beside them; `regions` puts them together. `ibsi_extra` has what IBSI defines and pyradiomics lacks.
`jit` compiles. docs/performance.md says how equal and how fast.
"""
