"""What people look at: results with their checks, tables, differences between models, figures, retrieved examples."""
