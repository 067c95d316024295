"""Synthetic anomalies: defects drawn on good images, with exact masks.

- `drawing`: `draw_anomalies` draws a set of several kinds into a folder; `kinds_to_draw`, which.
- `anomaly`: `Anomaly`, one of them; `load_anomalies` reads a set back and verifies its files;
  `anomalies_digest`, one hash of the whole set.
- `kinds`: `KINDS`, the registry of kinds, one module each; `DEFAULT_KINDS`, those that need no real
  anomaly; `region_kind` makes a kind from a function that gives a region other colors.
- `painting`: draws an anomaly again until it is visible.
- `scene`: `Scene`, what a kind draws on; `Place` and `Patch`, what it draws.
- `shapes`, `noise`: regions, lines and textures. `foreground`: objects on plain ground.
"""

from autopatch.data.synthetic.anomaly import Anomaly, anomalies_digest, load_anomalies
from autopatch.data.synthetic.drawing import draw_anomalies, kinds_to_draw
from autopatch.data.synthetic.kinds import DEFAULT_KINDS, KINDS

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "Anomaly",
    "anomalies_digest",
    "draw_anomalies",
    "kinds_to_draw",
    "load_anomalies",
]
