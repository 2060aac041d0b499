"""Parses the Terraform files of a directory, and looks whether everything that they refer to is there."""

import re
import sys
from pathlib import Path

import hcl2

directory = Path(sys.argv[1])
texts = {path.name: path.read_text() for path in directory.glob("*.tf")}
blocks = {}
for name, text in texts.items():
    for kind, values in hcl2.loads(text).items():
        blocks.setdefault(kind, []).extend(values if isinstance(values, list) else [values])

bare = lambda name: name.strip('"')
declared = {f"var.{bare(name)}" for block in blocks["variable"] for name in block}
declared |= {f"local.{name}" for block in blocks["locals"] for name in block if not name.startswith("__")}
declared |= {f"{bare(kind)}.{bare(name)}" for block in blocks["resource"] for kind, of in block.items() for name in of}
used = set()
for text in texts.values():
    code = re.sub(r"#.*|description *=.*", "", text)
    used |= set(re.findall(r"(?<![\w.\"])((?:var|local|linode_\w+)\.\w+)", code))
assert used <= declared, f"not declared: {used - declared}"
idle = {name for name in declared - used if name.startswith(("var.", "local."))}
assert not idle, f"not used: {idle}"
templates = set(re.findall(r'\$\{path\.module\}/([\w.-]+)', "".join(texts.values())))
left = {path.name for path in directory.iterdir()} - texts.keys()
assert templates == left, f"templates used: {templates}, there: {left}"
print(f"{len(declared)} declarations")
