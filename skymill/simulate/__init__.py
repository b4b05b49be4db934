"""Raw nights with known truth, for the demo, for tests and for users who check us.

The simulator shares no code with the reduction: what both get wrong alike would
stay hidden. It writes its FITS files itself and imports nothing of skymill but the
reason codes.
"""

from skymill.simulate.bad import BAD_FRAMES
from skymill.simulate.config import MovingObject, NightConfig, Transit, Variable, demo_config
from skymill.simulate.frames import TruthBit
from skymill.simulate.night import simulate_night, simulate_series
from skymill.simulate.truth import Truth

__all__ = [
    "BAD_FRAMES",
    "MovingObject",
    "NightConfig",
    "Transit",
    "Truth",
    "TruthBit",
    "Variable",
    "demo_config",
    "simulate_night",
    "simulate_series",
]
