"""The environment of child processes: an allowlist, so that no credential of the service reaches them.

The credentials of the service are in variables of its own (``S3_*``, ``AWS_*``, ``KAFKA_*``, ``BASIC_AUTH_*``,
``WEBHOOK_SECRET*`` …) and in those of other programs of the same host: no list of names to remove would be complete.
"""

from __future__ import annotations

from collections.abc import Mapping

#: What a Python process needs to start as this one did: paths, locale, time zone, temporary files, certificates.
BASIC = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "NO_COLOR",
    "FORCE_COLOR",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LC_*",
    "PYTHON*",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_*",
    "MALLOC_*",
    "GLIBC_TUNABLES",
)
#: What the libraries that run networks read: threads, devices, caches of compiled code, diagnostics.
NETWORKS = (
    "XDG_CACHE_HOME",
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "BLIS_*",
    "VECLIB_*",
    "NUMEXPR_*",
    "NUMBA_*",
    "DNNL_*",
    "ONEDNN_*",
    "TORCH*",
    "PYTORCH_*",
    "TRITON_*",
    "ORT_*",
    "ONNXRUNTIME_*",
    "CUDA_*",
    "CUBLAS*",
    "CUDNN_*",
    "NVIDIA_*",
    "NCCL_*",
    "ROCR_*",
    "HIP_*",
    "HSA_*",  # typos: allow
    "AMD_*",
    "TQDM_*",
)


def allowed_environment(environment: Mapping[str, str], *allowed: str) -> dict[str, str]:
    """Return the variables whose names are in ``allowed``; ``X*`` stands for every name that starts with ``X``."""
    names = frozenset(allowed)
    prefixes = tuple(name[:-1] for name in allowed if name.endswith("*"))
    return {name: value for name, value in environment.items() if name in names or name.startswith(prefixes)}
