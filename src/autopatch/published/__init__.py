"""AutoPatch as published (Kerssies & Vanschoren, AutoML 2023), in one room.

- `network`, `once_for_all`, `weights`: the Once-for-All MobileNetV3 supernets, their family of
  backbones and the published search space's preset, their weights.
- `flops`, `objectives`: the first objective of the published search.
- `protocol`: the published split.
- `space`: `published_space`. `studies`: `load_published`, the published study databases.
  `imported`: `import_study`, their architectures on other images.

The rest of the program comes here only by name: "ofa_mbv3" among `autopatch.supernet.FAMILIES`,
"published_flops" among `autopatch.search.OBJECTIVES`, "autopatch" among `autopatch.data.PROTOCOLS`.
"""
