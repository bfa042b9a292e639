"""The page of all settings, and the list of their names, generated from the settings models.

python -m tools.docs.settings > docs/configuration.md
python -m tools.docs.settings --names > sync/process/setting_names.txt
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import groupby

from gateway.cli.settings_reference import Setting, everything
from sync.process.environment import PREFIX

PAGE = """\
# Configuration

Made by `make docs` from the descriptions in the settings models; `planwire settings` prints the same list.

Everything is an environment variable. A `PLANWIRE_` name that does not exist is an error, and so is a value of the
wrong form: the process says which in one line and exits 2. Blanks and line ends around a value are dropped, and
an empty value counts as absent. Switches are `1` or `0`. No secret has a default.

What Kubernetes sets for a Service called `planwire` or `planwire-...` (`PLANWIRE_PORT=tcp://...`,
`PLANWIRE_SERVICE_HOST` and the like) is recognised by name and value, and ignored.

A setting that an older build does not know may be given with `X_` before its name (`X_PLANWIRE_PUBLISH_RIGHTS`): such a
build ignores it and starts. Do so for a roll-out, and for as long as it may be rolled back.

`web` and `worker` are the processes of the `Procfile`; `intake` is the part of `web` that takes webhooks; `outbox` is
`python -m sync.outbox`. Give all of them the same environment.
"""


def page(settings: Iterable[Setting]) -> str:
    """Return docs/configuration.md."""
    parts = [PAGE]
    for section, members in groupby(settings, lambda setting: setting.section):
        parts.append(f"\n## {section}\n\n| name | default | what | used by |\n|---|---|---|---|\n")
        for setting in members:
            default = f"`{setting.default}`" if setting.default else ""
            what = setting.description + (f" ({setting.facts})" if setting.facts else "")
            what = what.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
            parts.append(f"| `{setting.name}` | {default} | {what} | {', '.join(setting.used_by)} |\n")
    return "".join(parts)


def names(settings: Iterable[Setting]) -> str:
    """Return the setting names that every process accepts, one per line."""
    return "".join(f"{name}\n" for name in sorted(setting.name for setting in settings) if name.startswith(PREFIX))


if __name__ == "__main__":
    sys.stdout.write(names(everything()) if "--names" in sys.argv else page(everything()))
