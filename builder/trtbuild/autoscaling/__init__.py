"""From a server's metrics to a replica count: ask every hop of that path, and name the first that is broken."""

from trtbuild.autoscaling.gather import Readers, gather
from trtbuild.autoscaling.walk import walk

__all__ = ["Readers", "gather", "walk"]
