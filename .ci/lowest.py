"""Print, as pip constraints, the lowest version of every package that pyproject.toml allows."""

import re
from pathlib import Path

import tomllib

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
requirements = [
    *project["dependencies"],
    *(line for name in extras if name != "bench" for line in extras[name]),
]
for requirement in sorted(set(requirements)):
    if match := re.fullmatch(r"([\w-]+)>=([\w.]+)(;.*)?", requirement):
        print(f"{match[1]}=={match[2]}{match[3] or ''}")
