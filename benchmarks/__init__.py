"""Measurements that anybody can repeat, one folder each. Nothing that is shipped imports this."""
