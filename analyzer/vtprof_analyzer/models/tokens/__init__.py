"""How many visual tokens an image or video becomes: one file per family."""
