"""Benchmark of the methods against exact answers: small students, planar data, known flow maps."""

from __future__ import annotations

from .config import OracleConfig, is_oracle, load_oracle_config
from .run import OracleOutcome, OraclePlan, plan_oracle, run_oracle
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
