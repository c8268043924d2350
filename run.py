"""Train: ``python run.py KEY=VALUE ...`` (see ``lrd/cli.py``)."""

from lrd.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
