"""Memory policies behind one protocol, one small file each."""
