"""What pytest leaves alone: a module that imports an engine, which few machines have."""

collect_ignore = ["sglang_driver.py", "vllm_driver.py", "__main__.py"]
