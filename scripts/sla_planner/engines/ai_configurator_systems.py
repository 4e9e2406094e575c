"""Which GPUs AI Configurator knows, for who has to know them where it is not installed."""

from __future__ import annotations

SYSTEMS = frozenset({"a100_sxm", "b200_sxm", "b300_sxm", "b60", "gb200", "gb300", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000_server"})
"""Names of the systems that version 0.12 has tables of for some backend."""
