"""AutoPatch as published (Kerssies & Vanschoren, AutoML 2023).

- `network`, `once_for_all`, `weights`: the Once-for-All MobileNetV3 supernets, their backbone
  family with the preset of the published search, and their weights.
- `flops`, `objectives`: the first objective of the published search.
- `protocol`: the published split.
- `space`: `published_space`. `studies`: `load_published` reads the published study databases.
  `imported`: `import_study` evaluates their architectures on other images.

The rest of the program uses this package only by names in registries: "ofa_mbv3" in
`autopatch.supernet.FAMILIES`, "published_flops" in `autopatch.search.OBJECTIVES` and "autopatch" in
`autopatch.data.PROTOCOLS`.
"""
