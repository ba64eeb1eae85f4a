"""Notices: telling somebody that an invocation's time was up."""
