"""What the embedded broker costs while messages wait in it, and how long a purge holds up others."""
