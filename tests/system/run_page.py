"""Run the examples of one page of the documentation, in order, as a reader would: `python run_page.py PAGE.md`.

What a page may hold:
- ```python blocks run in one namespace, that of `__main__`. Lines `#> text` in a block are what it prints.
- ```console blocks: lines `$ command` are run in a shell; other lines are what it prints. `$ command  # exits 2` says so.
- A block whose first line is `# file: NAME` is written to NAME instead.
- A block whose first line is `# not run: REASON` is left out.
`...` in printed text stands for anything.
"""

import contextlib
import io
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text, and the line of the page where the text begins."""

    kind: str
    text: str
    line: int

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0].strip()

    @property
    def not_run(self) -> str | None:
        """The reason, where the block is left out."""
        return self.first.removeprefix("# not run:").strip() if self.first.startswith("# not run:") else None

    @property
    def file(self) -> str | None:
        """Name of the file that the block is."""
        return self.first.removeprefix("# file:").strip() if self.first.startswith("# file:") else None


def blocks_of(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    found = []
    for m in _FENCE.finditer(page):
        indent = m["indent"]
        text = "".join(line.removeprefix(indent) for line in m["text"].splitlines(keepends=True))
        found.append(Block(m["kind"], text, page.count("\n", 0, m.start("text")) + 1))
    return found


def mismatch(shown: list[str], printed: str) -> str:
    """What is wrong with the printed text where the page shows these lines; "" where it is as shown."""
    if not shown:
        return ""
    pattern = r"\s*".join(re.sub(r"(\\ )+", r"\\s+", re.escape(line.strip())).replace(r"\.\.\.", ".*?") for line in shown)
    if re.fullmatch(rf"\s*{pattern}\s*", printed, re.S):
        return ""
    return "the page shows\n    " + "\n    ".join(shown) + f"\nbut it prints\n    {printed.strip()}"


def run_python(block: Block, page: str, namespace: dict[str, object]) -> str:
    """Run a python block; "" or what went wrong."""
    out = io.StringIO()
    try:
        code = compile("\n" * (block.line - 1) + block.text, page, "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
    except BaseException:
        return out.getvalue() + traceback.format_exc()
    return mismatch([line.strip()[2:] for line in block.text.splitlines() if line.strip().startswith("#>")], out.getvalue())


def run_console(block: Block) -> str:
    """Run the commands of a console block; "" or what went wrong."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif commands and commands[-1][0].endswith("\\"):
            commands[-1] = (f"{commands[-1][0]}\n{line}", commands[-1][1])
        elif commands and line.strip():
            commands[-1][1].append(line)
    for command, shown in commands:
        expected = int(m[1]) if (m := re.search(r"# exits (\d+)\s*$", command)) else 0
        done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        if done.returncode != expected:
            return f"$ {command}\nexits with {done.returncode}, not {expected}:\n{done.stdout}"
        if wrong := mismatch(shown, done.stdout):
            return f"$ {command}\n{wrong}"
    return ""


def run(path: Path, namespace: dict[str, object]) -> str:
    """Run all blocks of the page in the current folder; "" or what went wrong, with the line of the page."""
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.not_run is not None:
            continue
        if block.file is not None:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
            continue
        wrong = ""
        if block.kind == "python":
            wrong = run_python(block, str(path), namespace)
        elif block.kind == "console":
            wrong = run_console(block)
        if wrong:
            return f"{path.name}, line {block.line}:\n{wrong}"
    return ""


if __name__ == "__main__":
    sys.path.insert(0, "")  # modules that the page writes
    _wrong = run(Path(sys.argv[1]), globals())
    if _wrong:
        sys.exit(_wrong)
