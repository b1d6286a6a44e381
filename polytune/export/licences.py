"""Licences as the Hub spells them."""

from __future__ import annotations

from polytune.checks import require
from polytune.lookup import did_you_mean

#: identifiers of the Hub's documentation ("Licenses"); of these, "other" and "unknown" say nothing
LICENCES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear cc cc0-1.0 cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 "
    "agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "gemma mpl-2.0 ms-pl ncsa ofl-1.1 osl-3.0 postgresql unlicense wtfpl zlib other unknown"
).split()
LICENCES_SAYING_NOTHING = ("other", "unknown")


def check_licence(licence: str) -> None:
    """Refuse a licence that the Hub does not know, naming near misses."""
    near = did_you_mean(licence.lower(), LICENCES, write=str) or "write apache-2.0, mit, ..., other or unknown."
    require(licence in LICENCES, f"licence is {licence!r}, which the Hub does not know: {near}")
