"""Predict images with a trained run.

    python scripts/predict.py RUN photo.jpg other.png --out predictions

RUN is a run directory, or the start of its fingerprint, with /seed<k> where there are several.
Classification prints and writes the five most probable labels; segmentation writes a mask, whose
pixels are the numbers of the labels, and an overlay; detection draws boxes. The values of each
image are written as JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lrd.analysis.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, any of Pillow's")
    parser.add_argument("--out", default="predictions", help="folder (default: predictions)")
    parser.add_argument("--runs", default="runs", help="runs directory (default: runs)")
    args = parser.parse_intermixed_args(arguments)

    def body() -> None:
        from lrd.analysis.frames import locate_run
        from lrd.loggers.images import save_image
        from lrd.training.trained import load_trained, predict_image
        from tasks.data.labeled_images import read_image

        trained = load_trained(locate_run(args.runs, args.run))
        images = [(Path(name), read_image(Path(name).expanduser())) for name in args.images]
        out, seen = Path(args.out).expanduser(), dict[str, int]()
        for path, image in images:
            found = predict_image(trained, image)
            seen[path.stem] = seen.get(path.stem, 0) + 1  # of files of one name in two folders
            stem = path.stem if seen[path.stem] == 1 else f"{path.stem}-{seen[path.stem]}"
            out.mkdir(parents=True, exist_ok=True)
            values = {"image": str(path), **found.values}
            (out / f"{stem}.json").write_text(json.dumps(values, indent=1) + "\n")
            for name, drawn in found.images.items():
                save_image(drawn, out / f"{stem}_{name}.png")
            print(f"{path}: {found.text}")
        print(f"written to {out}")

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
