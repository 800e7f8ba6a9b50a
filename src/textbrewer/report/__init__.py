"""What a model costs and what was won: measurements, plots and the page that shows them."""
