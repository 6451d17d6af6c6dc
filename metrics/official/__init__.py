"""The extractors of published protocols: their networks, weights files and picture preparation."""
