"""Import OpenVINO without the usage statistics that it sends to its makers.

Importing ``openvino`` loads ``openvino_telemetry``, which writes a client id to the home directory and reports the
import over the network. Everything here gets OpenVINO from this module, which takes that package away first; OpenVINO
then uses the stub it keeps for that case. Source: openvino 2026.4, openvino/tools/ovc/telemetry_utils.py.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it is an ImportError from now on

ov: Any = importlib.import_module("openvino")
op: Any = importlib.import_module("openvino.opset13")
