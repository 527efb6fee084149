"""What a stranger's code raised, in one line that says where to look."""

from __future__ import annotations


def described_exception(error: BaseException) -> str:
    """Type and text; of a syntax error the file with its path and line, which its traceback does not have."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        text = f"{error.msg} ({error.filename}:{error.lineno})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
