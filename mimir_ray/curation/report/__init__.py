"""`report.html`: what a finished curation kept and why the rest went."""
