"""``python -m densepose_engine`` is the command ``densepose-engine``."""

from .cli import main

raise SystemExit(main())
