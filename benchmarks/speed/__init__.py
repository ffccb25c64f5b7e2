"""How fast, how large, against what: latency, peers, limits of the machine, growth, engines.

Every command measures into one `benchmarks.speed.record.Record`, which is printed, written as JSON, plotted,
and can be rendered again from its file.
"""
