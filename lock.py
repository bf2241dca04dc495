"""Write constraints.txt anew: what pip installs of the newest that fits, beside the versions in pyproject.toml."""

import json
import platform
import re
import subprocess
import sys

from environment import CONSTRAINTS, GROUPS

pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
found = json.loads(subprocess.check_output([*pip, *sum(GROUPS.values(), [])]))["install"]
pins = ["{name}=={version}\n".format(**each["metadata"]).lower() for each in found if not each["requested"]]
head = re.match("(#.*\n)*", CONSTRAINTS.read_text("utf-8"))[0]
head = re.sub(r"Python [\d.]+(?=:)", f"Python {platform.python_version()}", head)
CONSTRAINTS.write_text(head + "".join(sorted(pin.replace("_", "-") for pin in pins)), "utf-8")
