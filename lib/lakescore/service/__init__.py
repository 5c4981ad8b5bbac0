"""Pipelines as a service: a REST interface, a schedule and a page; what runs is ``lakescore score``, each in a process of its own."""
