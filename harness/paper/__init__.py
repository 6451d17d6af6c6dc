"""Tables at full size: presets with a table [protocol], what they take and what of it a machine lacks.

config, plan, flops, summary, machine   what a preset asks for, what it costs, what of it this machine lacks
backbone, data, grid, students          the teacher, and the training of its students
subjects, networks, released, generate  test assets, and what each row makes of them
measure, ranges, run                    rows of the tables, where they should lie, and the verb
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
