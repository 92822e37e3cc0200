"""What the run of another recipe will have made, for checks before there is one."""

import re
from pathlib import Path

from m3jax.core import config as configs
from m3jax.pipeline.flags import config_name
from m3jax.pipeline.stage import Train
from m3jax.pipeline.stages import ONLY, split

# As a config names the model of another one: in the default run folder.
_RUN = re.compile(r"runs/([^/]+)(/model)?/?")


def stages_of(init: str, config: str | Path) -> tuple[Path, dict[str, Train]] | None:
    """The recipe in whose run folder a model is to be, and its stages that train.

    Args:
        init: what a stage goes on from, such as runs/e5-pretrain-base/model.
        config: file of that stage; the recipe is looked for in the folder "configs"
            that it lies in, or beside it.

    Returns:
        File and stages; None where no recipe has such a run.

    Raises:
        InputError: a file on the way is no config.
    """
    found = _RUN.fullmatch(init)
    if found is None:
        return None
    folder = Path(config).parent
    named = [each for each in (folder, *folder.parents) if each.name == "configs"]
    for path in sorted((named[0] if named else folder).rglob("*.py")):
        name = config_name(path)
        size = found[1].removeprefix(f"{name}-")
        if size == found[1] and found[1] != name:
            continue
        if "def get_config" not in path.read_text(encoding="utf-8"):
            continue
        make = configs.load(path)
        if found[1] == name or size in configs.sizes_of(make):
            given = None if found[1] == name else size
            made = configs.call(make, size=given, where=str(path))
            return path, split(made if isinstance(made, dict) else {ONLY: made})[0]
    return None
