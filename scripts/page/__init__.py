"""The page that answers the paper: what scripts/report.py writes."""
