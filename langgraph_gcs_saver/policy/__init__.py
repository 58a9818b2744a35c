"""Pure decisions: functions from rows to decisions and reasons."""
