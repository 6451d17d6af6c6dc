# pyright: reportMissingImports=false
"""Runs one job inside Blender, or inside a Python that has bpy: `run_job.py -- JOB.json RESULT.json`.

The job names the .blend file, the folder for what is made, and what to make. The result is written last, so its
existence means success; an exception ends the process with its traceback on standard error.
"""

import json
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Blender does not do this for --python

import jobs


def main(job_path: Path, result_path: Path) -> None:
    job = json.loads(job_path.read_text(encoding="utf-8"))
    # Text blocks in a file can ask to be run on loading; these files come from strangers.
    bpy.ops.wm.open_mainfile(filepath=job["blend"], load_ui=False, use_scripts=False)
    result = jobs.JOBS[job["do"]["job"]](job["do"], Path(job["out"]), job["threads"])
    result_path.write_text(json.dumps(result, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[-2]), Path(sys.argv[-1]))
