"""The report as a folder of HTML pages that opens from disk."""
