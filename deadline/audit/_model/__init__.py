"""The functions of a template, and who calls them."""
