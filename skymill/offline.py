"""Keep astropy from the network: no tables are downloaded behind the user's back."""

from __future__ import annotations

__all__ = ["no_downloads"]


def no_downloads() -> None:
    """Switch off astropy's downloads of Earth-orientation and leap-second tables.

    The tables that come with astropy are used. For a BJD this costs less than a
    microsecond; a run never hangs on a machine without a network.
    """
    from astropy.utils import iers

    iers.conf.auto_download = False
    iers.conf.auto_max_age = None
    iers.conf.iers_degraded_accuracy = "ignore"
