"""Run optimum-intel's command line without the usage statistics of the packages below it: ``python -m`` this module.

OpenVINO and NNCF load ``openvino_telemetry``, which writes a client id to the home directory and reports over the
network; its only documented switch is a file in the home directory. Both fall back to a stub when it cannot be
imported, so it is taken away before anything is loaded, as in ``openvino``.
Source: openvino 2026.4, openvino/tools/ovc/telemetry_utils.py; nncf, src/nncf/telemetry/wrapper.py.

It passes its arguments on. It does not choose them: ``plan`` does.
"""

from __future__ import annotations

import runpy
import sys

MODULE = "optimum.commands.optimum_cli"

if __name__ == "__main__":
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it is an ImportError from now on
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
