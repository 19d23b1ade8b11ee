"""What a user asks for and what the machine is: parsed, checked for shape, frozen.

An option is declared by the field of ``values`` that it fills; ``table`` makes the one table of options from them, that
flags, ``TRTBUILD_*`` variables and ``engine.yaml`` share; ``parse`` fills the values; ``host`` is the machine.
"""

from trtbuild.spec.host import CpuInfo, GpuInfo, HostInfo
from trtbuild.spec.option import Kind, Option, Section
from trtbuild.spec.parse import closest, parse_bytes, parse_spec, parse_value
from trtbuild.spec.table import OPTIONS, OPTIONS_BY_NAME
from trtbuild.spec.values import (
    BACKENDS,
    QUANTIZATIONS,
    RESTRICTED_APIS,
    Dtype,
    EngineSpec,
    JsonValue,
    KvCacheDtype,
    Quantization,
    RepositoryLayout,
    RepositorySpec,
    SchedulerPolicy,
    ServerSpec,
    Spec,
    StoreSpec,
    VerifyMode,
)

__all__ = [
    "BACKENDS",
    "OPTIONS",
    "OPTIONS_BY_NAME",
    "QUANTIZATIONS",
    "RESTRICTED_APIS",
    "CpuInfo",
    "Dtype",
    "EngineSpec",
    "GpuInfo",
    "HostInfo",
    "JsonValue",
    "Kind",
    "KvCacheDtype",
    "Option",
    "Quantization",
    "RepositoryLayout",
    "RepositorySpec",
    "SchedulerPolicy",
    "Section",
    "ServerSpec",
    "Spec",
    "StoreSpec",
    "VerifyMode",
    "closest",
    "parse_bytes",
    "parse_spec",
    "parse_value",
]
