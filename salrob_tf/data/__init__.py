"""Images and labels: every source becomes one `Dataset`, and arrays are looked at before they are used."""
