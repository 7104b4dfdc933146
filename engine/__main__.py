"""``python -m densepose_engine`` is the ``densepose-engine`` command."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
