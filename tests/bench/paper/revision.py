"""Which revision of the repository made a result."""
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent


def commit():
    """The repository's commit, with + if files that it tracks were changed; "unknown" without git or outside of a clone."""

    def git(*words):
        return subprocess.run(["git", "-C", HERE, *words], capture_output=True, text=True).stdout.strip()

    try:
        return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "-uno") else "")
    except FileNotFoundError:
        return "unknown"
