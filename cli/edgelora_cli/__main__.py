"""``python -m edgelora_cli`` is ``edgelora``, for environments whose scripts are not on the path."""

from edgelora_cli import main

main()
