"""Memory of the GPUs, asked of the driver: the server itself has no model library."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from attrs import frozen

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class GpuMemory:
    """One GPU's memory.

    Attributes
    ----------
    index
        The driver's number.
    name
        The model.
    used_bytes, total_bytes
        In bytes.
    """

    index: str
    name: str
    used_bytes: int
    total_bytes: int


def gpu_memory() -> tuple[GpuMemory, ...]:
    """The memory of every GPU; empty without a driver, or without the package nvidia-ml-py. Blocks."""
    driver = _driver()
    if driver is None:
        return ()
    found = []
    try:
        for index in range(driver.nvmlDeviceGetCount()):
            handle = driver.nvmlDeviceGetHandleByIndex(index)
            memory = driver.nvmlDeviceGetMemoryInfo(handle)
            name = driver.nvmlDeviceGetName(handle)
            found.append(
                GpuMemory(index=str(index), name=str(name), used_bytes=int(memory.used), total_bytes=int(memory.total))
            )
    except driver.NVMLError as error:
        log.debug("the driver does not tell of its memory: %s", error)
    return tuple(found)


@lru_cache(maxsize=1)
def _driver() -> Any:
    """The driver's library, started; None where there is none."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("there is no driver of a GPU: %s", error)
        return None
    return pynvml
