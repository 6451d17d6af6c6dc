"""Tables at full size: presets with a table [protocol], what they take and what of it a machine lacks.

Planned here and never run: the training of full-size networks from TRELLIS latents does not exist yet.
"""

from .config import TablesConfig, has_protocol, load_tables
from .machine import check_runnable, lacking, needs
from .plan import TablesPlan, plan_tables
from .summary import tables_summary

__all__ = [
    "TablesConfig",
    "TablesPlan",
    "check_runnable",
    "has_protocol",
    "lacking",
    "load_tables",
    "needs",
    "plan_tables",
    "tables_summary",
]
