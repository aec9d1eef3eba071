"""The evaluation of the embedded model: rows, records, figures and costs."""
