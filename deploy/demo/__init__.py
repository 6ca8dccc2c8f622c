"""`make demo`: break the whole stack on cue, and see the alert, the runbook and the recovery."""
