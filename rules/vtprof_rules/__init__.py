"""The rules: conditions over facts, as data with their examples beside them."""
