"""The pages, one file each; `app/main.py` lists them."""
