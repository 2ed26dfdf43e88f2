"""What a person states, checked: model, attention, precision, hardware, engine options."""
