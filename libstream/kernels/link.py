"""Machine code of kernels: kept in files, linked into this process. Needs LLVM's linker only, not numba."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Code:
    """An object file. entry: the name of its function. needs: names of functions that the process must have."""

    entry: str
    needs: tuple[str, ...]
    object: bytes

    def save(self, path: Path) -> None:
        """Write it as a whole, or not at all."""
        head = json.dumps({"entry": self.entry, "needs": self.needs}).encode() + b"\n"
        body = head + self.object
        fd, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(fd, "wb") as f:
            f.write(hashlib.sha256(body).digest() + body)
        os.replace(aside, path)


def saved(path: Path) -> Code | None:
    """What `Code.save` wrote; None where there is no such file, or a damaged one, as after a full disk."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:  # code that is not what was compiled must not run
        return None
    head, _, code = body.partition(b"\n")
    fields = json.loads(head)
    return Code(fields["entry"], tuple(fields["needs"]), code)


def linked(code: Code) -> int:
    """Address of the function of `code`, which stays in memory until the process ends. Callers hold a lock.

    What some kernels take from numba (lists, strings, reshaping) is there once numba is imported.
    """
    import llvmlite.binding as llvm

    engine = _engine()
    if any(llvm.address_of_symbol(name) is None for name in code.needs):
        from libstream.kernels.emit import numba_is_there

        numba_is_there()
        missing = [name for name in code.needs if llvm.address_of_symbol(name) is None]
        if missing:  # the linker would end the process
            raise ImportError(f"compiled code needs {', '.join(missing)}, which numba does not offer here; empty the cache of kernels")
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.object))
    engine.finalize_object()
    address = int(engine.get_function_address(code.entry))
    if not address:
        raise ImportError(f"compiled code has no function {code.entry}; this is a fault of libstream")
    return address


_held: Any = None


def _engine() -> Any:
    global _held
    if _held is None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
        _held = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    return _held
