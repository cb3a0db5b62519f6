"""How networks run: sessions, precision, compilation, copies to and from the device."""
