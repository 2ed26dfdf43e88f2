"""The dashboard: a Streamlit shell over kvsim's public API. See README.md here."""
