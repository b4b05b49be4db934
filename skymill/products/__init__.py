"""One frame with everything that is known of it: what a notebook works with.

``skymill.open`` assembles again what the steps wrote apart: the calibrated frame, its
final mask, its background, its sources, where it points and how bright it is. It can
also measure masks, backgrounds and error maps anew, without touching what is there.
"""

from skymill.products.maps import ProductMap, ProductMask
from skymill.products.open_frame import OpenFrame, open_frame

__all__ = ["OpenFrame", "ProductMap", "ProductMask", "open_frame"]
