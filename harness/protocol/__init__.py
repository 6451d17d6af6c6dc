"""Evaluation protocols as data: every choice with its value, status and source, under one hash."""
