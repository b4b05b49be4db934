"""Keeping the light of other sources out of the rings that measure a local sky."""

from skymill.measure.rings import RING_CLIP_SIGMA, mask_sources

__all__ = ["RING_CLIP_SIGMA", "mask_sources"]
