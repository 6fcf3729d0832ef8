"""From a function to an object file, by numba. Imported only when something is compiled."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.ccallback import CFunc
from numba.core.codegen import RuntimeLinker
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.sigutils import normalize_signature

from libstream.kernels.link import Code

_MEMORY = {"NRT_MemInfo_call_dtor": 1, "NRT_MemInfo_alloc_aligned": 2}
"""What numba's code calls for arrays that a kernel makes, and the number of its arguments."""

_LATER = RuntimeLinker.PREFIX
"""What begins the name of a pointer to a function that calls itself."""


def object_code(entry: Any) -> tuple[Code, bool]:
    """`int64 entry(int64)`, compiled with all it calls, and whether other processes can use that code."""
    func: Any = CFunc(entry, normalize_signature("int64(int64)"), locals={}, options={})
    with global_compiler_lock:
        made = func._compile_uncached()
        library = made.library
        _keep_out(library)
        library.finalize()
        module, codegen = library._final_module, library._codegen
        name = made.fndesc.llvm_cfunc_wrapper_name
        own = [v.name.removeprefix(_LATER) for v in module.global_variables if v.is_declaration and v.name.startswith(_LATER)]
        if own:
            module.link_in(llvm.parse_assembly(_recursion(own, codegen._data_layout)))
        outside = {f.name: f for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        if all(len(list(outside[n].arguments)) == k for n, k in _MEMORY.items() if n in outside):
            wanted = outside.keys() & _MEMORY.keys()
            if wanted and not any(n.startswith("NRT_") for n in outside.keys() - _MEMORY.keys()):
                module.link_in(llvm.parse_assembly(_memory(codegen._data_layout)))
        # names of numba's are numbered by process: two object files must not find each other's
        for value in (*module.functions, *module.global_variables):
            if not value.is_declaration and value.name != name:
                value.linkage = "internal"
        needs = sorted(f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm."))
        code = Code(name, tuple(needs), codegen._tm.emit_object(module))
    return code, not library.has_dynamic_globals and not library._reload_init


def numba_is_there() -> None:
    """Tell LLVM's linker all that numba's compiled code may call."""
    cpu_target.target_context.refresh()
    rtsys.initialize(cpu_target.target_context)


def _recursion(names: list[str], layout: str) -> str:
    """The pointers by which functions call themselves."""
    module = ir.Module("recursion")
    module.triple, module.data_layout = llvm.get_process_triple(), layout
    place = ir.IntType(8).as_pointer()
    for name in names:
        pointer = ir.GlobalVariable(module, place, _LATER + name)
        pointer.initializer = ir.Function(module, ir.FunctionType(ir.VoidType(), []), name).bitcast(place)
    return str(module)


def _memory(layout: str) -> str:
    """Memory for arrays that a kernel makes for itself, from `malloc`.

    Such arrays do not leave the kernel, so their memory may come from anywhere; with this, an object file needs nothing of numba.
    A block begins as numba's own: (references, destructor, its argument, data, size), of which numba's code reads the first
    and the fourth by itself.
    """
    module = ir.Module("memory")
    module.triple, module.data_layout = llvm.get_process_triple(), layout
    word, place = ir.IntType(64), ir.IntType(8).as_pointer()
    head = ir.LiteralStructType([word, place, place, place, word])
    malloc = ir.Function(module, ir.FunctionType(place, [word]), "malloc")
    free = ir.Function(module, ir.FunctionType(ir.VoidType(), [place]), "free")

    drop = ir.Function(module, ir.FunctionType(ir.VoidType(), [place]), "NRT_MemInfo_call_dtor")
    b = ir.IRBuilder(drop.append_basic_block())
    b.call(free, drop.args)
    b.ret_void()

    take = ir.Function(module, ir.FunctionType(place, [word, ir.IntType(32)]), "NRT_MemInfo_alloc_aligned")
    b = ir.IRBuilder(take.append_basic_block())
    size, align = take.args[0], b.zext(take.args[1], word)
    room = b.add(b.add(size, word(40)), align)
    got = b.call(malloc, [b.select(b.icmp_unsigned("<", room, size), word(-1), room)])
    with b.if_then(b.icmp_unsigned("==", got, place(None)), likely=False):
        b.ret(got)
    start = b.add(b.ptrtoint(got, word), word(40))
    start = b.add(start, b.urem(b.sub(align, b.urem(start, align)), align))
    fields = b.bitcast(got, head.as_pointer())
    for i, value in enumerate((word(1), place(None), place(None), b.inttoptr(start, place), size)):
        b.store(value, b.gep(fields, [ir.IntType(32)(0), ir.IntType(32)(i)]))
    b.ret(got)
    return str(module)


def _keep_out(library: Any) -> None:
    """Have `library` optimised when it is finalised, but no machine code made by numba's linker."""
    library._finalize_specific = lambda: library._codegen._engine._ee.remove_module(library._final_module)
