"""The evaluation: rows, records, figures and costs."""
