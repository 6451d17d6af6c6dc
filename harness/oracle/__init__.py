"""Benchmark of the methods on problems whose law is known: exact answers, small students."""

from __future__ import annotations

from .config import OracleConfig, is_oracle, load_oracle_config
from .plan import OraclePlan, plan_oracle
from .run import OracleOutcome, run_oracle
from .summary import oracle_summary

__all__ = [
    "OracleConfig",
    "OracleOutcome",
    "OraclePlan",
    "is_oracle",
    "load_oracle_config",
    "oracle_summary",
    "plan_oracle",
    "run_oracle",
]
