"""Schedules: a dataset per date of a cron expression, each once.

Pure, with the time as an argument: `cron` says when, `template` what the names of files are then,
`spec` what one schedule asks for, and `planner` which dates are to run now.
"""
