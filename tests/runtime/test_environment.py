"""What a run ran on."""

import os
import subprocess

from mvead_jax.runtime import environment


def test_asking_for_the_commit_writes_nothing_into_the_checkout(tmp_path, monkeypatch):
    """A git that refreshes the index, and is killed with the run, leaves its lock: no commit after that."""

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    source = tmp_path / "source.py"
    source.write_text("1\n")
    for arguments in (["init"], ["add", "source.py"], ["commit", "-m", "one"]):
        git(*arguments)
    os.utime(source, (1, 1))  # the index says otherwise, and is due for a refresh
    index = (tmp_path / ".git/index").read_bytes()
    monkeypatch.setattr(environment, "__file__", str(source))
    commit = environment.environment()["commit"]
    assert len(commit) == 40
    assert (tmp_path / ".git/index").read_bytes() == index
    source.write_text("2\n")
    assert environment.environment()["commit"] == f"{commit}+changes"
