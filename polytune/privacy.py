"""What no file of a run says: who somebody is, and what opens their accounts.

The home folder becomes ``~``, which whatever reads a path back understands (`polytune.places.at_home`). Credentials
become ``***``: of a URL, of a parameter called like one, the value of an environment variable that is called like one
(HF_TOKEN, WANDB_API_KEY), and what has the form of a Hub's, OpenAI's, GitHub's or AWS's key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_CALLED = r"(?:token|api_?key|access_?key|secret|passw(?:or)?d|credentials?)"
_NAME = re.compile(_CALLED, re.IGNORECASE)
#: shorter values of environment variables are words such as "true"
_SHORTEST = 8
_FORMS = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*(?::[^\s/@]*)?@", re.IGNORECASE)
_PARAMETER = re.compile(rf"([?&][\w-]*{_CALLED}[\w-]*=)[^\s&#\"']+", re.IGNORECASE)


def private(value: Any) -> Any:
    """A text, or the texts within mappings and lists, without the home folder and without credentials."""
    if isinstance(value, Mapping):
        return {private(key): private(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [private(own) for own in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if len(secret) >= _SHORTEST and _NAME.search(name) and secret in value and not os.path.isabs(secret):
            value = value.replace(secret, HIDDEN)
    value = _PARAMETER.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", _FORMS.sub(HIDDEN, value)))
    return _without_home(value)


def _without_home(text: str) -> str:
    home = os.path.expanduser("~").rstrip("/")
    if len(home) < 2 or home not in text:
        return text
    return re.sub(rf"(?<![\w.~/-]){re.escape(home)}(?![\w.-])", "~", text)
