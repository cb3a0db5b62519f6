"""Where a URL may lead: taken apart strictly, its addresses checked, at the front door and for every connection."""
