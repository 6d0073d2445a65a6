"""Runs client/demo/tutorial.md as it stands: `sh` blocks one after the other in one shell, `python` blocks are
the files that their first line names. Usage: tutorial_test.py FOLDER_OF_LAPLACED FOLDER_OF_LAPLACE

Exit code 77 (skipped) where PyTorch for Python or Fashion-MNIST is not installed.
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEEDED = pathlib.Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def main() -> int:
    if importlib.util.find_spec("torch") is None or not NEEDED.exists():
        print("skipped: needs python3-torch and dataset-fashion-mnist")
        return 77
    text = (ROOT / "client" / "demo" / "tutorial.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if len(blocks) < 8:
        raise SystemExit(f"expected at least 8 blocks, found {len(blocks)}")
    client = ROOT / "client" / "python"
    subprocess.run(["/usr/bin/python3", "setup.py", "descriptors"], cwd=client, check=True)
    script = ["set -eumo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    with tempfile.TemporaryDirectory() as folder:
        for language, code in blocks:
            if language == "python":
                name = re.match(r"# (\w+\.py)\n", code)
                if name is None:
                    raise SystemExit(f"a python block does not begin with its file's name:\n{code}")
                (pathlib.Path(folder) / name[1]).write_text(code)
            elif language == "sh":
                script.append(code)
            else:
                raise SystemExit(f"a block in an unknown language: {language}")
        env = dict(os.environ)
        env["PATH"] = os.pathsep.join(sys.argv[1:3] + [env["PATH"]])
        env["PYTHONPATH"] = str(client)
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        env.pop("LAPLACE_SERVER", None)
        done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, env=env)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
