"""The job table: the truth about every job, and the few bulk statements that change it.

`engine` opens a database, `tables` says what is in it, `migrate` brings its schema up to date.
The statements live by what they are for: `jobs` (a producer's), `work` (a worker's batches),
`workers` (leases) and `models` (the registry's rows). Each takes an open connection and
says in SQL what `headrace.job` allows; none commits.
"""
