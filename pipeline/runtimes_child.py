"""The other side of runtimes_run.py, run by the Python of an environment that holds numpy and one runtime alone.

`python -I runtimes_child.py FOLDER` reads FOLDER/job.json and inputs.npz, runs every sample, and writes outputs.npz and
result.json. It imports nothing of edgewright: the code that talks to the runtime is loaded from the file that the job
names.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> int:
    job = json.loads((folder / "job.json").read_text())
    try:
        spec = importlib.util.spec_from_file_location("edgewright_runtime", job["script"])
        assert spec is not None and spec.loader is not None, "the parent names a .py file"
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with np.load(folder / "inputs.npz", allow_pickle=False) as content:
            samples: dict[str, dict[str, Any]] = {}
            for key in content.files:
                number, _, name = key.partition("/")
                samples.setdefault(number, {})[name] = content[key]
        outputs: dict[str, Any] = {}
        with module.open_alone(Path(job["artifact"]), job["threads"], job["dtypes"]) as session:
            for number, sample in samples.items():
                outputs |= {f"{number}/{name}": value for name, value in session.run(sample).items()}
            runtime = session.runtime
    except Exception as error:  # noqa: BLE001  (a runtime can raise anything on a file that is none of its own)
        (folder / "failure.json").write_text(json.dumps(f"{type(error).__name__}: {error}"))
        return 1
    np.savez(folder / "outputs.npz", **outputs)
    (folder / "result.json").write_text(json.dumps({"runtime": runtime}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
