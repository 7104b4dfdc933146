"""``python -m densepose_engine.calibration`` is ``densepose-engine calibrate``."""

import sys

from ..cli import main

raise SystemExit(main(["calibrate", *sys.argv[1:]]))
