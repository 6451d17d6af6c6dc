"""What every room may import: errors, the registry, seeds, safe files. No torch, no numpy at import."""
