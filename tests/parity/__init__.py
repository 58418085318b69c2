"""Golden cases of the published systems, compared stage by stage."""
