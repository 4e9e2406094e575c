"""A Git repository on this machine with the files of this tree, changes that nobody has committed yet among them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[3]
BRANCH = "main"
AUTHOR = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "e2e"), ("EMAIL", "e2e@localhost"))}


class Repository:
    """`files`: a checkout of it, to be changed and committed."""

    def __init__(self, folder: Path) -> None:
        """`folder`: an empty one."""
        bare = folder / "repository.git"
        self.url = bare.as_uri()
        self.files = folder / "files"
        _git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(bare))
        with_tree = (f"--git-dir={bare}", f"--work-tree={TREE}")
        _git(*with_tree, "add", "--all", str(TREE))
        _git(*with_tree, "commit", "--quiet", "--message=The tree")
        _git("clone", "--quiet", self.url, str(self.files))

    def commit(self, message: str) -> str:
        """Commits and pushes whatever has changed in `files`; the commit's name."""
        _git("-C", str(self.files), "add", "--all")
        _git("-C", str(self.files), "commit", "--quiet", f"--message={message}")
        _git("-C", str(self.files), "push", "--quiet", "origin", BRANCH)
        return self.head()

    def head(self) -> str:
        return _git("-C", str(self.files), "rev-parse", "HEAD").strip()


def _git(*arguments: str) -> str:
    """Standard output. Nobody's settings count: no hooks, no signatures."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], env={**kept, **alone, **AUTHOR}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
