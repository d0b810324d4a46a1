"""The commands of README.md that CI runs: fenced bash blocks marked by an HTML comment such as <!-- ci:setup -->.

python .ci/readme_commands.py README.md setup
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MARK = re.compile(r"^<!--\s*ci:(?P<name>[\w-]+)\s*-->[ \t]*$", re.MULTILINE)
BLOCK = re.compile(r"\s*^```bash[ \t]*\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """Marked name -> commands. Raises ValueError for a mark without a block, an empty block or a name used twice."""
    found: dict[str, str] = {}
    for mark in MARK.finditer(text):
        name = mark["name"]
        block = BLOCK.match(text, mark.end())
        if block is None:
            raise ValueError(f"<!-- ci:{name} --> must be followed by a ```bash block")
        if not block["body"].strip():
            raise ValueError(f"the ```bash block after <!-- ci:{name} --> is empty")
        if name in found:
            raise ValueError(f"<!-- ci:{name} --> stands twice; keep one")
        found[name] = block["body"]
    return found


def main(argv: list[str]) -> int:
    """Print one block; 2 and a line on stderr if there is none."""
    if len(argv) != 2:
        print("usage: readme_commands.py README.md NAME", file=sys.stderr)
        return 2
    path, name = Path(argv[0]), argv[1]
    try:
        found = blocks(path.read_text(encoding="utf-8"))
        print(found[name], end="")
    except (OSError, ValueError) as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return 2
    except KeyError:
        print(
            f"{path.name}: no block marked <!-- ci:{name} -->; marked are: {', '.join(found) or 'none'}",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
